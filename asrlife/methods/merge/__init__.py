"""Merging: several models of one shape become one, a tensor at a time.

Read `method` (what a method is), then `registry` (which there are).
"""

from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.registry import METHODS, make

__all__ = ["METHODS", "Method", "Stack", "make"]
