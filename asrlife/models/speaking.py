"""Voices that are networks: SpeechT5 and Bark, by the folder of a checkpoint or a hub id, through transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.audio import speak as speech
from asrlife.audio.engines import ENGINES, Engine
from asrlife.audio.voices import Prosody
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.load import downloaded

if TYPE_CHECKING:
    import torch

VOCODER = "microsoft/speecht5_hifigan"
_INSTEAD = "give the folder of a checkpoint, or an espeak-ng voice such as en-us+f3"
_SPEAKERS = ("speakers.safetensors", "speakers.npy")


@dataclass(frozen=True)
class SpeechT5:
    """SpeechT5 (arXiv 2110.07205) with its HiFi-GAN vocoder: MODEL or MODEL#SPEAKERS.

    MODEL is a folder or a hub id; the vocoder is its folder "vocoder" or microsoft/speecht5_hifigan. SPEAKERS is a file of x-vectors
    (n, 512), .npy or .safetensors with one tensor, of which the seed draws one for each reading; without it MODEL/speakers.* is taken.
    """

    about: str = "SpeechT5 through transformers: speecht5:MODEL#SPEAKERS, a folder or hub id and a file of x-vectors (.npy, .safetensors)"
    prosody: bool = False

    def missing(self) -> str:
        """Its tokenizer is a sentencepiece model."""
        return _absent("sentencepiece", "asrlife[speechbrain]")

    def names(self) -> Sequence[str]:
        """They cannot be listed."""
        return ()

    def check(self, name: str) -> None:
        """Load it; raise InputError for what is missing, damaged or does not fit."""
        _speech_t5(name)

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Speak; its decoder always drops at random, so that the seed is heard. Raises InputError where it says nothing."""
        import torch

        module, vocoder, processor, speakers = _speech_t5(name)
        ids = processor(text=text, return_tensors="pt")["input_ids"]
        most = int(module.config.max_text_positions)
        if ids.shape[1] > most:
            raise InputError(
                f"speecht5:{name}: the text has {ids.shape[1]} letters, the model reads {most}; cut it, as in --longest {most - 50}"
            )
        with seeded(seed):
            speaker = speakers[int(torch.randint(len(speakers), ()))]
            spoken = module.generate_speech(ids, speaker[None], vocoder=vocoder)
        return spoken.float().numpy(), int(vocoder.config.sampling_rate)


@dataclass(frozen=True)
class Bark:
    """Bark (suno/bark): MODEL or MODEL#PRESET.

    MODEL is a folder or a hub id. PRESET is one of the model's voices, as v2/en_speaker_6; without it the model makes up a speaker.
    """

    about: str = "Bark through transformers: bark:MODEL#PRESET, a folder or hub id and one of its voices, as v2/en_speaker_6"
    prosody: bool = False

    def missing(self) -> str:
        """transformers is always there."""
        return ""

    def names(self) -> Sequence[str]:
        """They cannot be listed."""
        return ()

    def check(self, name: str) -> None:
        """Load it; raise InputError for what is missing, damaged, and a preset that the model does not have."""
        model, _, preset = name.partition("#")
        _, processor = _bark(model)
        known = processor.available_voice_presets
        if preset and preset not in known:
            raise InputError(f"bark:{name}: no preset {preset!r}; known: {', '.join(known[:8]) or 'none, the model has no presets'}")

    def say(self, text: str, name: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
        """Speak; tokens are drawn where the model's generation_config.json says so, and then the seed is heard."""
        from asrlife.models.checkpoint import quiet

        model, _, preset = name.partition("#")
        module, processor = _bark(model)
        with quiet(), seeded(seed):
            spoken = module.generate(**processor(text, voice_preset=preset or None))
        return spoken[0].float().numpy(), int(module.generation_config.sample_rate)


ALL_ENGINES: Mapping[str, Engine] = {**ENGINES, "speecht5": SpeechT5(), "bark": Bark()}


def speak(text: str, voice: str = "en-us", prosody: Prosody = Prosody(), seed: int = 0) -> Waveform:
    """Read `text` aloud at 16 kHz; `voice` is an espeak-ng name such as "en-gb-x-rp+f3", or ENGINE:NAME (`asrlife info voices`).

    `seed` is for engines that draw at random. Raises InputError for an unknown voice and for text that makes no sound.
    """
    return speech.speak(text, voice, prosody, seed, ALL_ENGINES)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` and leave torch's own generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=2)
def _speech_t5(name: str) -> tuple[Any, Any, Any, torch.Tensor]:
    """The network, its vocoder, its processor and speakers (n, dimension)."""
    from transformers import SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5Processor

    from asrlife.models.checkpoint import read_weights

    absent = SpeechT5().missing()
    if absent:
        raise InputError(f"speecht5:{name}: {absent}")
    model, _, chosen = name.partition("#")
    folder = _folder(model, "speecht5", ("*.json", "*.safetensors", "*.model", *_SPEAKERS))
    with seeded(0):  # a network draws its first weights before it reads others
        module: Any = read_weights(folder, SpeechT5ForTextToSpeech)
        processor = _processor(folder, SpeechT5Processor)
    speakers = _speakers(folder, chosen, int(module.config.speaker_embedding_dim))
    beside = folder / "vocoder"
    vocoder = beside if beside.is_dir() else _folder(VOCODER, f"speecht5:{model}, which has no folder vocoder", ("*.json", "*.safetensors"))
    with seeded(0):
        return module, read_weights(vocoder, SpeechT5HifiGan), processor, speakers


@lru_cache(maxsize=2)
def _bark(model: str) -> tuple[Any, Any]:
    """The network and its processor."""
    from transformers import BarkModel, BarkProcessor

    from asrlife.models.checkpoint import read_weights

    folder = _folder(model, "bark", ("*.json", "*.safetensors", "*.txt", "speaker_embeddings/*"))
    with seeded(0):
        return read_weights(folder, BarkModel), _processor(folder, BarkProcessor)


def _folder(model: str, engine: str, files: tuple[str, ...]) -> Path:
    from asrlife.models.checkpoint import CONVERT

    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return path
    try:
        found = downloaded(model, _INSTEAD, files)
    except InputError as error:
        raise InputError(f"{engine}: {error}") from error
    if not any(found.glob("*.safetensors")):
        raise InputError(f"{engine}: {model} has no *.safetensors on the hub, and pickles can run code; download it, and {CONVERT}")
    return found


def _processor(folder: Path, kind: Any) -> Any:
    from asrlife.models.checkpoint import quiet

    try:
        with quiet():
            return kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(f"{folder}: its tokenizer does not load ({line}); copy the whole checkpoint, tokenizer files too") from error


def _speakers(folder: Path, chosen: str, size: int) -> torch.Tensor:
    import torch

    path = Path(chosen).expanduser() if chosen else next((folder / name for name in _SPEAKERS if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"speecht5:{folder} has no speakers: name a file of x-vectors ({size} numbers each), as in speecht5:{folder}#speakers.npy, "
            f"or put it there as {_SPEAKERS[1]}"
        )
    found = torch.from_numpy(_vectors(path).astype(np.float32))
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != size or not len(found) or not bool(torch.isfinite(found).all()):
        raise InputError(f"{path}: holds {tuple(found.shape)} numbers, not finite x-vectors (n, {size}); give those of the model")
    return found


def _vectors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".safetensors":
            (found,) = load_file(path).values()
            return found
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: no x-vectors can be read from it ({error}); give a .npy, or a .safetensors with one tensor") from error


def _absent(module: str, extra: str) -> str:
    from importlib.util import find_spec

    return "" if find_spec(module) else f"{module} is not installed; pip install '{extra}'"
