"""Merging: several models of one shape become one, a tensor at a time.

Read `method` (what a method is), `consensus` and `sparsify` (what `vectors` puts together), then `linear`, `spherical`, `selection`,
`spectral`, `evidence`, `attention` and `emr`, whose tasks get their own models back. `philox` draws the lots, `registry` has the names.

What data say: `subject` (a model and what it is shown), `statistics` (evidence and its files), `attached` (evidence in a merge),
`learning` (AdaMerging's coefficients) and the folder `repair`.
"""

from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.registry import MERGEKIT, METHODS, make

__all__ = ["MERGEKIT", "METHODS", "Method", "Stack", "make"]
