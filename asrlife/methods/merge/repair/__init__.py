"""Repair after a merge: statistics and scales of activations that averaging of weights has spoilt are put right on audio or text.

Read `draft` (a network that is repaired without being touched), then `batchnorm`, `scales` (norms and REPAIR) and `surgery`; `run` does
all that a command does.
"""
