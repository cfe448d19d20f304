"""A closed world of facts, everything that can be said and asked about it, and what follows when one of its facts changes."""
