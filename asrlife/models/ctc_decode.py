"""From CTC log-probabilities to hypotheses: greedy or beam search, words with times and confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import exp, isinf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.models.align import align_labels
from asrlife.models.vocabulary import WORD_START, Vocabulary
from asrlife.text.hypothesis import Hypothesis, Word

LM_WEIGHT = 0.5  # of the n-gram's natural log-probability, per letter


@dataclass(frozen=True)
class Clock:
    """Times of frames: `offset` is the centre of the first one and `hop` the distance of two, in s; `end` of the audio, in s."""

    offset: float
    hop: float
    end: float

    def span(self, first: int, last: int) -> tuple[float, float]:
        """Start and end in s of the frames from `first` to `last`, half a hop around their centres, inside the audio."""
        start = self.offset + (first - 0.5) * self.hop
        stop = self.offset + (last + 0.5) * self.hop
        return min(max(start, 0.0), self.end), min(max(stop, 0.0), self.end)


def greedy(log_probs: Tensor, vocabulary: Vocabulary, clock: Clock) -> Hypothesis:
    """Best path of log-probabilities (frames, classes): collapse repeats, drop blanks. No other path of its labels is likelier,
    so that words have the times of their forced alignment.

    The score is the mean over frames of the path's log-probability in nats.
    """
    best, path = log_probs.max(-1)
    labels = collapse(path.tolist(), vocabulary.blank)
    return _hypothesis(labels, path.tolist(), log_probs, vocabulary, clock, float(best.mean()))


def beam_search(log_probs: Tensor, vocabulary: Vocabulary, clock: Clock, beam: int, lm: str | None = None) -> Hypothesis:
    """Lexicon-free beam search summing over alignments (torchaudio's flashlight decoder), words from the best alignment of its result.

    `lm`: path of a KenLM n-gram over letters, "|" between words. The score is log p(labels | audio) / frames in nats without the
    n-gram: at least that of the greedy labels when the beam is wide.
    """
    return n_best(log_probs, vocabulary, clock, beam, 1, lm)[0]


def n_best(log_probs: Tensor, vocabulary: Vocabulary, clock: Clock, beam: int, count: int, lm: str | None = None) -> list[Hypothesis]:
    """Up to `count` hypotheses of different texts that the search of `beam_search` ends with, the likeliest first."""
    silence = torch.full((len(log_probs), 1), -1e4)  # flashlight starts and ends with silence: a class that no frame can emit
    # several ends of a search may spell one text
    ends = _decoder(vocabulary, beam, lm, 1 if count == 1 else beam)(torch.cat([log_probs.cpu(), silence], 1)[None].contiguous())[0]
    texts: dict[str, list[int]] = {}
    for end in ends:
        labels = [int(label) for label in end.tokens if label < len(vocabulary.pieces)]
        texts.setdefault(vocabulary.spell(labels), labels)
    found = [_aligned(labels, log_probs, vocabulary, clock) for labels in list(texts.values())[:count] or [[]]]
    # the search ranks by the alignments that its beam kept, the score counts all of them; with an n-gram its own ranking stands
    return found if lm else sorted(found, key=lambda each: -each.score)


def _aligned(labels: list[int], log_probs: Tensor, vocabulary: Vocabulary, clock: Clock) -> Hypothesis:
    path = align_labels(log_probs, labels, vocabulary.blank)
    score = likelihood(log_probs, labels, vocabulary.blank) / len(log_probs)
    return _hypothesis(labels, path, log_probs, vocabulary, clock, score)


def likelihood(log_probs: Tensor, labels: Sequence[int], blank: int) -> float:
    """log p(labels | audio) in nats, summed over alignments, from log-probabilities (frames, classes)."""
    if not labels:
        return float(log_probs[:, blank].sum())
    frames, count = torch.tensor([len(log_probs)]), torch.tensor([len(labels)])
    return -float(torch.nn.functional.ctc_loss(log_probs[:, None], torch.tensor([list(labels)]), frames, count, blank, "sum"))


def collapse(path: Sequence[int], blank: int) -> list[int]:
    """Labels of a frame-by-frame path: repeats once, blanks not at all."""
    return [label for label, _ in groupby(path) if label != blank]


@lru_cache(maxsize=8)
def _decoder(vocabulary: Vocabulary, beam: int, lm: str | None, count: int = 1) -> Any:
    from torchaudio.models.decoder import ctc_decoder

    if lm is not None and not Path(lm).is_file():
        raise InputError(f"no n-gram model at {lm}: give a KenLM .arpa or .bin file over letters")
    tokens = [_token(vocabulary, index) for index in range(len(vocabulary.pieces))]
    options = {"blank_token": tokens[vocabulary.blank], "sil_token": "<silence>", "log_add": True, "lm_weight": LM_WEIGHT if lm else 0.0}
    try:
        return ctc_decoder(lexicon=None, tokens=[*tokens, "<silence>"], lm=lm, beam_size=beam, nbest=count, **options)
    except RuntimeError as error:
        if "KenLM is not installed" in str(error):
            raise InputError(f"{lm} needs KenLM, which is not installed: pip install kenlm, or decode without an n-gram") from error
        raise InputError(f"{lm} cannot be read as a KenLM model ({str(error).splitlines()[0]}): build it again with lmplz") from error


def _token(vocabulary: Vocabulary, index: int) -> str:
    piece = vocabulary.pieces[index]
    if not piece or vocabulary.ids.get(piece) != index:
        return f"<{index}>"
    return "|" if piece == " " else piece


def _hypothesis(
    labels: Sequence[int], path: Sequence[int], log_probs: Tensor, vocabulary: Vocabulary, clock: Clock, score: float
) -> Hypothesis:
    words = tuple(_words(path, log_probs, vocabulary, clock))
    return Hypothesis(vocabulary.spell(labels), tuple(labels), words, 0.0 if isinf(score) else score)


def _words(path: Sequence[int], log_probs: Tensor, vocabulary: Vocabulary, clock: Clock) -> Iterator[Word]:
    for runs in _runs_by_word(path, vocabulary):
        frames = torch.tensor([frame for _, first, last in runs for frame in range(first, last + 1)])
        labels = torch.tensor(path)[frames]
        confidence = exp(float(log_probs[frames, labels].mean()))
        start, end = clock.span(runs[0][1], runs[-1][2])
        yield Word(vocabulary.spell([label for label, _, _ in runs]), start, end, confidence)


def _runs_by_word(path: Sequence[int], vocabulary: Vocabulary) -> list[list[tuple[int, int, int]]]:
    words: list[list[tuple[int, int, int]]] = [[]]
    for label, first, last in _runs(path):
        piece = vocabulary.pieces[label]
        if piece == " " or piece.startswith(WORD_START):
            words.append([])
        if piece.strip(" " + WORD_START):
            words[-1].append((label, first, last))
    return [runs for runs in words if runs]


def _runs(path: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    first = 0
    for label, run in groupby(path):
        length = len(list(run))
        yield label, first, first + length - 1
        first += length
