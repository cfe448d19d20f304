"""Edits of recognisers: a name or a spelling taught from a few utterances, as a low-rank delta in closed form."""
