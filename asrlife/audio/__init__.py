"""Sound as a value: reading, writing, spoiling and speaking it."""
