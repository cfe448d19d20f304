"""SpeechBrain CTC recognisers (`EncoderASR`): a folder with hyperparams.yaml and its checkpoints."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.models.checkpoint import card_of, check_finite
from asrlife.models.ctc import CtcRecogniser
from asrlife.models.ctc_decode import Clock
from asrlife.models.frames import Frames
from asrlife.models.vocabulary import WORD_START, Vocabulary

LEAST_S = 0.25  # of audio, more than the filters and strides of any recipe need
FAILURES = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError, pickle.UnpicklingError)
SPECIALS = {"<blank>", "<bos>", "<eos>", "<unk>", "<s>", "</s>", "<pad>"}


@dataclass(frozen=True, eq=False)
class SpeechBrainRecogniser(CtcRecogniser):
    """The encoder of an EncoderASR, whose last layer gives CTC log-probabilities; times assume frames evenly spread over the audio."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Without a supervised loss where classes are pieces of words."""
        letters = all(len(piece) < 2 for piece in self.vocabulary.pieces)
        return frozenset({"emissions", "timestamps", *(("loss",) if letters else ())})

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, samples) of one length -> (batch, frames, classes)."""
        return self.module(inputs, torch.ones(len(inputs), device=inputs.device))

    def clock(self, samples: int, steps: int) -> Clock:
        """Frames evenly spread over the audio."""
        hop = samples / self.rate / max(1, steps)
        return Clock(hop / 2, hop, samples / self.rate)


def read_speechbrain(folder: Path, name: str, trust_code: bool) -> SpeechBrainRecogniser:
    """A CTC recogniser; raises InputError unless `trust_code`, and where the folder does not make an EncoderASR."""
    if not trust_code:
        raise InputError(
            f"{folder}/hyperparams.yaml may run any code it names (HyperPyYAML): read it, then load({name!r}, trust_code=True)"
        )
    hparams = _recogniser(folder)
    module = hparams["modules"]["encoder"].float().eval()
    check_finite(module, folder)
    vocabulary = _vocabulary(hparams, folder)
    rate = int(hparams.get("sample_rate", 16_000))
    return SpeechBrainRecogniser(
        name, module, rate, vocabulary=vocabulary, frames=Frames(((round(LEAST_S * rate), 1, 0),)),
        normalised=bool(hparams.get("normalize_audio", False)), masked=False, card=card_of(folder),
    )  # fmt: skip


def _recogniser(folder: Path) -> Mapping[str, Any]:
    try:
        from hyperpyyaml import load_hyperpyyaml
    except ImportError as error:
        raise InputError("SpeechBrain models need its package: pip install 'asrlife[speechbrain]'") from error
    try:
        with _silent(), open(folder / "hyperparams.yaml", encoding="utf-8") as file:
            hparams: dict[str, Any] = load_hyperpyyaml(file)
            hparams["pretrainer"].collect_files(default_source=str(folder))
            hparams["pretrainer"].load_collected()
        forget_lazy_modules()
    except FAILURES as error:
        raise InputError(f"{folder} does not load with SpeechBrain ({type(error).__name__}: {error}): check its files") from error
    if "encoder" not in hparams.get("modules", {}) or "tokenizer" not in hparams:
        raise InputError(f"{folder}/hyperparams.yaml has no modules.encoder and tokenizer: give a CTC recogniser (EncoderASR)")
    return hparams


def forget_lazy_modules() -> None:
    """Drop what SpeechBrain puts in the place of absent packages: its lazy modules raise ImportError at whatever walks over sys.modules."""
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]


def _vocabulary(hparams: Mapping[str, Any], folder: Path) -> Vocabulary:
    tokenizer = hparams["tokenizer"]
    if hasattr(tokenizer, "ind2lab"):
        pieces: Sequence[str] = [str(tokenizer.ind2lab[index]) for index in range(len(tokenizer.ind2lab))]
    elif hasattr(tokenizer, "id_to_piece"):
        pieces = [tokenizer.id_to_piece(index) for index in range(tokenizer.vocab_size())]
    else:
        raise InputError(f"{folder}: tokenizer {type(tokenizer).__name__} is neither a CTCTextEncoder nor a SentencePiece model: use one")
    spaces = {WORD_START: " ", "|": " ", "_": " "}
    blank = getattr(hparams.get("decoding_function"), "keywords", {}).get("blank_id", hparams.get("blank_index", 0))
    spelled = ["" if piece in SPECIALS or index == blank else spaces.get(piece, piece.lower()) for index, piece in enumerate(pieces)]
    return Vocabulary(tuple(spelled), int(blank))


@contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("speechbrain")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
