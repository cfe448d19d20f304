"""Which of the sounds that a stream has met this utterance belongs to, and when a new one has begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_MEMORY = 50  # distances that an entry is judged by, and utterances that its centre follows


@dataclass(frozen=True)
class Place:
    """One sound: its noise floor in dB, how far its last utterances were from it (dB), how many there were and when the last.

    `sureness` is how sure the recognisers have lately been in it, `weights` the number of what is learnt in it; places that are states
    of one noise share that.
    """

    floor: tuple[float, ...]
    distances: tuple[float, ...] = ()
    heard: int = 1
    latest: int = 0
    sureness: tuple[float, ...] = ()
    weights: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Place:
        """From `asdict`, or from what JSON made of it."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in record.items()}
        return cls(**values)

    def distance(self, floor: np.ndarray) -> float:
        """Root mean square difference of two noise floors, in dB."""
        return float(np.sqrt(np.mean(np.square(floor - np.array(self.floor)))))

    def rank(self, distance: float) -> float:
        """Conformal p-value: (1 + utterances at least as far) / (1 + utterances), uniform or larger while nothing changes."""
        return (1 + sum(known >= distance for known in self.distances)) / (1 + len(self.distances))

    def joined(self, floor: np.ndarray, distance: float, now: int) -> Place:
        """With one more utterance."""
        share = 1 / min(self.heard + 1, _MEMORY)
        centre = tuple(((1 - share) * np.array(self.floor) + share * floor).tolist())
        return replace(self, floor=centre, distances=(*self.distances, distance)[-_MEMORY:], heard=self.heard + 1, latest=now)


@dataclass(frozen=True)
class Bank:
    """The sounds met so far, which of them is heard now, and the evidence that it has become another.

    `arrived` is the utterance at which the weights at hand came to hand.

    The evidence is a Shiryaev-Roberts e-detector (arXiv 2203.03532): R <- (R + 1) e with the e-value e = 1 / (2 sqrt(p)) of the
    conformal p-value, so that while nothing changes R reaches 1 / alpha once in 1 / alpha utterances or less often, whatever the
    distribution, however long one looks.
    """

    places: tuple[Place, ...] = ()
    now: int = 0
    evidence: float = 0.0
    clock: int = 0
    arrived: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Bank:
        """From `asdict`, or from what JSON made of it."""
        places = tuple(Place.of(place) for place in record["places"])
        return cls(places, record["now"], record["evidence"], record["clock"], record["arrived"])

    def nearest(self, floor: np.ndarray) -> tuple[int, float]:
        """The place whose floor is nearest, and how far it is in dB; there must be one."""
        distances = [place.distance(floor) for place in self.places]
        best = int(np.argmin(distances))
        return best, distances[best]

    def heard(self, floor: np.ndarray, radius: float) -> Bank:
        """One utterance later, in the place that is nearest; within `radius` dB of it nothing counts as evidence."""
        clock = self.clock + 1
        if not self.places:
            return replace(self, places=(Place(tuple(floor.tolist()), latest=clock),), clock=clock)
        best, distance = self.nearest(floor)
        place = self.places[best]
        value = 0.5 / place.rank(distance) ** 0.5
        evidence = (self.evidence + 1) * (value if distance > radius else min(1.0, value))
        # what is farther than anything before belongs to no place: it must not pull one towards it, nor call up what was learnt there
        strange = distance > radius and all(distance > known for known in place.distances)
        moved = self if strange else self._put(best, place.joined(floor, distance, clock))
        return replace(moved, now=self.now if strange else best, evidence=evidence, clock=clock)

    def opened(self, floor: np.ndarray, limit: int, weights: int | None = None) -> Bank:
        """With a new place, for the one not heard for longest when there are `limit`; it shares `weights` or has some of its own."""
        kept = self.places
        if len(kept) == limit:
            oldest = min(range(limit), key=lambda index: kept[index].latest)
            kept = (*kept[:oldest], *kept[oldest + 1 :])
        used = {place.weights for place in kept}
        own = next(number for number in range(limit) if number not in used) if weights is None else weights
        new = Place(tuple(floor.tolist()), latest=self.clock, weights=own)
        return replace(self, places=(*kept, new), now=len(kept), evidence=0.0)

    def sharing(self, weights: int) -> Bank:
        """With what is heard now learning together with the places that have these weights."""
        return self._put(self.now, replace(self.here, weights=weights))

    @property
    def here(self) -> Place:
        """The sound that is heard now."""
        return self.places[self.now]

    def judged(self, sureness: Sequence[float]) -> Bank:
        """With the sureness of the recognisers in the sound that is heard now."""
        return self._put(self.now, replace(self.here, sureness=tuple(sureness)))

    def _put(self, index: int, place: Place) -> Bank:
        places: Sequence[Place] = [place if at == index else other for at, other in enumerate(self.places)]
        return replace(self, places=tuple(places))
