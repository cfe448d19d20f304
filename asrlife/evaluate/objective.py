"""What merges are chosen by: the word error rate on an annotated manifest, or the likelihood of text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.evaluate.wer import count

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.handle import Recogniser
    from asrlife.models.text import TextModel

Metric = Literal["wer", "perplexity"]
Amounts = tuple[tuple[float, ...], tuple[float, ...]]
"""By item: word errors and words of an utterance, or nats and tokens of a text; the figure is sum over sum, lower is better."""
_RATE = 16_000
USUAL = "dev"


class Objective(Protocol):
    """Something to be made small, over items that every model is measured on alike."""

    @property
    def metric(self) -> Metric:
        """What the figure is called."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that is measured on."""

    def __len__(self) -> int:
        """How many items there are."""

    def measure(self) -> Amounts:
        """The figure of the network as it is now, item by item."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """Word errors of a recogniser, greedy and without adaptation, on utterances that are kept in memory."""

    model: Recogniser
    waveforms: tuple[Waveform, ...]
    references: tuple[str, ...]
    problems: tuple[str, ...] = ()
    metric: Metric = "wer"

    @classmethod
    def of(cls, model: Recogniser, corpus: Corpus) -> Spoken:
        """Read the audio; what cannot be read or has no text is left out and named in `problems`."""
        found, problems = list[tuple[Any, str]](), list(corpus.problems)
        for utterance in corpus:
            try:
                if utterance.text is None:
                    raise InputError("has no text to score against; left out")
                found.append((utterance.waveform(_RATE), utterance.text))
            except InputError as error:
                problems.append(f"{utterance.id}: {error}")
        if not found:
            raise InputError(f"{corpus.source}: nothing to search on ({next(iter(problems), 'no utterances')})")
        waveforms, references = zip(*found, strict=True)
        return cls(model, waveforms, references, tuple(problems))

    @property
    def fingerprint(self) -> str:
        """Over samples and texts."""
        digest = hashlib.sha256()
        for waveform, text in zip(self.waveforms, self.references, strict=True):
            digest.update(json.dumps([text, waveform.rate]).encode() + np.ascontiguousarray(waveform.samples).tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.references)

    def measure(self) -> Amounts:
        """Transcribe all, and count."""
        heard = self.model.transcribe(self.waveforms)
        counts = [count(reference, hypothesis.text) for reference, hypothesis in zip(self.references, heard, strict=True)]
        return tuple(float(c.errors) for c in counts), tuple(float(c.words) for c in counts)


@dataclass(frozen=True, eq=False)
class Written:
    """Nats of a causal language model on texts, their ends included; e to the mean over tokens is its perplexity."""

    model: TextModel
    texts: tuple[str, ...]
    problems: tuple[str, ...] = ()
    metric: Metric = "perplexity"

    @property
    def fingerprint(self) -> str:
        """Over the texts."""
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    def measure(self) -> Amounts:
        """Read all."""
        losses = self.model.surprise([("", text) for text in self.texts])
        return tuple(float(loss.double().sum()) for loss in losses), tuple(float(loss.numel()) for loss in losses)


def objective(model: Any, data: Path, split: str | None, limit: int | None, metric: Metric | None) -> Objective:
    """What a model is measured by on `data`: a manifest for a recogniser, a text file or JSONL with "text" for a language model.

    Of data with splits only `split` is read, "dev" unless given, and never the test split. Raises InputError where the metric is not one
    of such a model, or there is no such split.
    """
    from asrlife.models.text import TextModel

    own: Metric = "perplexity" if isinstance(model, TextModel) else "wer"
    if metric not in {None, own}:
        raise InputError(f"search: metric {metric!r} is none of {model.name}, which is measured by {own}")
    if isinstance(model, TextModel):
        return Written(model, tuple(_limited(_texts(data, split), limit)))
    if data.suffix == ".txt":
        raise InputError(f"{data} is text, and {model.name} a recogniser: give a JSONL manifest with audio and text")
    corpus = Corpus.read(data)
    found = _part(sorted({u.split for u in corpus if u.split}), split, data)
    corpus = corpus if found is None else corpus.split(found)
    return Spoken.of(model, corpus if limit is None else corpus.limit(limit))


def _part(known: Sequence[str], split: str | None, data: Path) -> str | None:
    """The split to read; None for data without splits."""
    if split == "test":
        raise InputError("search: split test: what is chosen on the test split cannot be tested on it any more: search on dev")
    wanted = split or (USUAL if known else None)
    if wanted is not None and wanted not in known:
        raise InputError(f"{data} has no split {wanted!r} to search on; it has {', '.join(known) or 'none'}: name one with split")
    return wanted


def _texts(data: Path, split: str | None) -> list[str]:
    try:
        lines = [line for line in data.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{data} cannot be read ({error}): give a text file, a sentence a line, or JSONL with "text"') from error
    rows = list(_rows(data, lines)) if data.suffix in {".jsonl", ".json"} else [(line.strip(), None) for line in lines]
    wanted = _part(sorted({part for _, part in rows if part}), split, data)
    found = [text for text, part in rows if wanted in {None, part}]
    if not found:
        raise InputError(f"{data} holds no text: give a sentence a line")
    return found


def _rows(data: Path, lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            yield str(row["text"]), row.get("split")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f'{data}:{number}: broken line ({error}); write one JSON object with "text" a line') from error


def _limited(texts: list[str], limit: int | None) -> list[str]:
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit}; it must be at least 1")
    return texts[:limit]


def figure(metric: Metric, mean: float) -> float:
    """A mean over words or tokens as people read it: the rate itself, or the perplexity."""
    return mean if metric == "wer" else math.exp(min(mean, 700.0))


def shown(metric: Metric, mean: float) -> str:
    """The same as text: a rate in per cent."""
    return f"{100 * mean:.2f} %" if metric == "wer" else f"{figure(metric, mean):.4g}"
