"""Leave-one-domain-out experiments with the Syn-to-Real task vector."""
