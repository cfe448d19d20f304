"""What a recogniser hears, where parts of it that no edit moves are computed once; and how near that is to a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asrlife.data.utterance import Utterance
from asrlife.models.handle import Batch
from asrlife.text.edits import edits
from asrlife.text.normalise import normalise

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Sound:
    """Utterances prepared for one model, in batches of like length: the places of each batch, and the batch."""

    utterances: tuple[Utterance, ...]
    batches: tuple[tuple[tuple[int, ...], Batch], ...]


def prepared(model: Recogniser, utterances: Sequence[Utterance], moved: Sequence[str]) -> Sound:
    """With all that the network makes of the sound below the parameters `moved`."""
    waves = [one.waveform() for one in utterances]
    order = sorted(range(len(waves)), key=lambda place: waves[place].duration)
    found = []
    for first in range(0, len(order), _BATCH):
        members = tuple(order[first : first + _BATCH])
        batch = model.cached(model.prepare([waves[place] for place in members]), moved)
        found.append((members, replace(batch, fixed={})))  # which holds weights, and those are to move
    return Sound(tuple(utterances), tuple(found))


def heard(model: Recogniser, sound: Sound) -> list[str]:
    """The text of each utterance by the weights of now."""
    texts = [""] * len(sound.utterances)
    for members, batch in sound.batches:
        known: Any = model.emissions(batch) if "path" not in model.capabilities else None
        for place, hypothesis in zip(members, model.decode(batch, known), strict=True):
            texts[place] = hypothesis.text
    return texts


def written(name: str, text: str) -> bool:
    """Whether the words of a name stand together in a text, both normalised."""
    return f" {normalise(name)} " in f" {normalise(text)} "


def closeness(name: str, text: str) -> float:
    """1 - d / len(name), d the fewest edits of letters between the name and any stretch of the text; spaces count."""
    wanted = normalise(name)
    return max(0.0, 1 - min(edits(wanted, normalise(text), anywhere=True)) / max(1, len(wanted)))
