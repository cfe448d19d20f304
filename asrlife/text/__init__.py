"""Transcripts, their normal form, and grammars that make sentences."""
