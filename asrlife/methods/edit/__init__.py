"""Model editing: changes of a few facts or words, as low-rank deltas."""
