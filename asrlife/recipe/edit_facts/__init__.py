"""The recipe edit_facts: facts of a language model changed one at a time, and two hundred after each other."""
