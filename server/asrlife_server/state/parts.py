"""A state's bytes in parts, so that a store writes those alone that the version before does not have.

Most utterances change one vector of several: between two slow updates of Dynamic SUTA the weights and their moments stay, and only the
gradient that is being gathered is another. Parts are named by their SHA-256 and belong to one address: no tenant, and no key, learns from
a name what another holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from asrlife.methods.online.state import seams

_LEAST = 4096  # bytes of a part; vectors that are smaller stay together


class Parts(NamedTuple):
    """`names` in the order of the bytes; `content` by name, each once."""

    names: tuple[str, ...]
    content: Mapping[str, memoryview]

    @classmethod
    def of(cls, blob: bytes) -> Parts:
        """Cut at the vectors of a state; bytes that are no state's are one part."""
        pieces = [memoryview(blob)[start:end] for start, end in pairwise(_cuts(blob))]
        names = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
        return cls(names, dict(zip(names, pieces, strict=True)))

    @property
    def text(self) -> str:
        """The names as one text, without spaces in a name."""
        return " ".join(self.names)

    def beside(self, there: str) -> dict[str, bytes]:
        """The content that is not among the names of the text `there`."""
        known = set(there.split())
        return {name: bytes(piece) for name, piece in self.content.items() if name not in known}


def _cuts(blob: bytes) -> list[int]:
    places = seams(blob)
    cuts = places[:1]  # what is before the vectors is small and never the same
    for place in places[1:]:
        if place - cuts[-1] >= _LEAST:
            cuts.append(place)
    if cuts and len(blob) - cuts[-1] < _LEAST:
        cuts.pop()
    return [0, *cuts, len(blob)]
