"""Recognisers behind one handle."""
