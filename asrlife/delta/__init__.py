"""Differences of weights: their algebra, their files, and the only ways to put them into a model."""
