"""How a recogniser goes through a lesson step by step: frames of a CTC network, tokens of a Whisper decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.edit.speech.lessons import Lesson
from asrlife.models.align import align_labels
from asrlife.text.edits import corresponding

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.handle import Batch, Recogniser


@dataclass(frozen=True, eq=False)
class Steps:
    """What each step of a lesson should say: `targets` (steps,), and which of them belong to the taught words, `taught` (steps,) bool."""

    targets: Tensor
    taught: Tensor


class Listener(Protocol):
    """A recogniser whose modules run when it is asked for scores, so that hooks on them see each step."""

    @property
    def model(self) -> Any:
        """The handle."""

    @property
    def stack(self) -> str:
        """The name of the module whose blocks may be edited."""

    @property
    def head(self) -> str:
        """The name of the module that makes scores; raises InputError where it cannot be edited."""

    @property
    def skipped(self) -> int:
        """How many rows stand before the first step in what modules are given."""

    def heard(self, lesson: Lesson) -> Batch:
        """The sound as the network takes it."""

    def courses(self, lesson: Lesson) -> list[Steps]:
        """The right targets, aligned with the sound as the network is now; several where the network may come to them in several ways."""

    def scores(self, batch: Batch, steps: Steps) -> Tensor:
        """Scores (steps, classes) with gradient, the right targets before each step given where the network looks back."""

    def run(self, waveform: Waveform) -> None:
        """Go through sound as in use."""


def listener(model: Recogniser) -> Listener:
    """The listener of a model; raises InputError for one that is neither."""
    if "path" in model.capabilities and hasattr(model, "spelling"):
        return Tokens(model)
    if model.blank is not None and hasattr(model, "vocabulary") and hasattr(model.module, "lm_head"):
        return Frames(model)
    raise InputError(f"{model.name} cannot be taught a word this way: give a CTC recogniser of the wav2vec2 family, or Whisper")


@dataclass(frozen=True, eq=False)
class Frames:
    """A CTC network, a step for each frame."""

    model: Any
    skipped: int = 0
    head: str = "lm_head"

    @property
    def stack(self) -> str:
        """The transformer over frames."""
        return f"{self.model.module.base_model_prefix}.encoder"

    def heard(self, lesson: Lesson) -> Batch:
        """One row without padding."""
        batch: Batch = self.model.prepare([lesson.waveform])
        return batch

    def courses(self, lesson: Lesson) -> list[Steps]:
        """The likeliest path that spells the text (CTC forced alignment)."""
        labels = self.model.vocabulary.encode(lesson.text)
        with torch.no_grad():
            log_probs = self._logits(self.heard(lesson)).log_softmax(-1).cpu()
        path = align_labels(log_probs, labels, self.model.blank)
        taught = span(path, labels, lesson, self.model.vocabulary.ids.get(" ", -1), self.model.blank)
        device = self.model.device
        return [Steps(torch.tensor(path, device=device), torch.tensor(taught, device=device))]

    def scores(self, batch: Batch, steps: Steps) -> Tensor:
        """Logits of frames, which look at sound alone."""
        return self._logits(batch)

    def run(self, waveform: Waveform) -> None:
        """One forward."""
        self._logits(self.model.prepare([waveform]))

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.model.logits(batch.inputs, None)[0].float()
        return logits


def span(path: Sequence[int], labels: Sequence[int], lesson: Lesson, delimiter: int, blank: int) -> list[bool]:
    """The frames between the letters before and after the taught words: what stands there, delimiters too, is theirs."""
    word_of, word = list[int | None](), 0
    for label in labels:
        word_of.append(None if label == delimiter else word)
        word += label == delimiter
    owners = list[int | None]()  # of each frame, the word whose letter it is
    at, before = -1, blank
    for label in path:
        at += label not in (blank, before)
        owners.append(word_of[at] if label != blank else None)
        before = label
    ahead = [place for place, owner in enumerate(owners) if owner is not None and owner < lesson.first]
    behind = [place for place, owner in enumerate(owners) if owner is not None and owner >= lesson.last]
    begin, end = (ahead[-1] + 1 if ahead else 0), (behind[0] if behind else len(path))
    return [begin <= place < end for place in range(len(path))]


def parted(words: Sequence[str], first: int, last: int) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """What stands before, in and behind first to last (exclusive)."""
    return words[:first], words[first:last], words[last:]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Whisper, a step for each token of the text and one for its end."""

    model: Any

    @property
    def stack(self) -> str:
        """The decoder."""
        return "model.decoder"

    @property
    def head(self) -> str:
        """The output layer, where it is no embedding too."""
        if self.model.module.config.tie_word_embeddings:
            raise InputError(f"{self.model.name}: the output layer is the embedding too; edit the site mlp or cross-attention")
        return "proj_out"

    @cached_property
    def skipped(self) -> int:
        """The prompt but for its last token, after which the first of the text is said."""
        return len(self.model.control.prompt(None, False)) - 1

    def heard(self, lesson: Lesson) -> Batch:
        """With the states of the encoder, which no edit of the decoder moves."""
        batch: Batch = self.model.cached(self.model.prepare([lesson.waveform]), [f"{self.stack}."])
        return batch

    def courses(self, lesson: Lesson) -> list[Steps]:
        """The tokens of the text, and again behind what the model itself writes before the taught words, where that is something else.

        Raises InputError where the tokenizer cannot write the text.
        """
        spelling, batch = self.model.spelling, self.heard(lesson)
        if " ".join(spelling.text(spelling.ids(f" {lesson.text}")).split()) != lesson.text:
            written = spelling.text(spelling.ids(f" {lesson.text}")).strip()
            raise InputError(f"the model cannot spell {lesson.text!r}: it writes {written!r}; normalise the text first")
        words = lesson.text.split()
        before, taught, after = (" ".join(part) for part in parted(words, lesson.first, lesson.last))
        own = self.model.path(batch)[0].tolist()
        heard = spelling.text([token for token in own if token < self.model.control.end]).strip()
        found = [self._steps(before, taught, after)]
        other = heard[: corresponding(before, lesson.text.removeprefix(before), heard)].strip()
        if other not in ("", before):
            found.append(self._steps(other, taught, after))
        return found

    def _steps(self, before: str, taught: str, after: str) -> Steps:
        """The token behind the taught words is theirs too, or they would go on."""
        rows = [self.model.spelling.ids(f" {part}") if part else [] for part in (before, taught, after)]
        ids = [token for row in rows for token in row] + [self.model.control.end]
        first, last = len(rows[0]), len(rows[0]) + len(rows[1])
        room, device = self.model.module.config.max_target_positions - self.skipped - 1, self.model.device
        belongs = [first <= place <= last for place in range(len(ids))]
        return Steps(torch.tensor(ids[:room], device=device), torch.tensor(belongs[:room], device=device))

    def scores(self, batch: Batch, steps: Steps) -> Tensor:
        """Logits of text tokens and the end, the right tokens before each given."""
        logits: Tensor = self.model.emissions(batch, steps.targets[None], closed=True).logits[0]
        return logits

    def run(self, waveform: Waveform) -> None:
        """Along the model's own greedy path."""
        batch = self.model.cached(self.model.prepare([waveform]), [f"{self.stack}."])
        self.model.emissions(batch, self.model.path(batch), closed=True)
