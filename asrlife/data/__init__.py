"""Utterances, corpora, and the acoustic conditions they are heard in."""
