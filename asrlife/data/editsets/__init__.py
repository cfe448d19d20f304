"""Sets of edits in files: those that the field measures on, for people who have them, and a JSONL format of our own."""
