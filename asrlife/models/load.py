"""From a name to a recogniser."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.models.ctc import CtcRecogniser
    from asrlife.models.handle import Recogniser

EMBEDDED = ("ctc", "ctc-tts", "whisper")
ASSETS = Path(__file__).resolve().parents[1] / "assets"
INSTEAD = "give the folder of a checkpoint, or use embedded:ctc"


def load(
    name: str | os.PathLike[str], *, trust_code: bool = False, delta: str | os.PathLike[str] | None = None, scale: float = 1.0
) -> Recogniser:
    """Load a recogniser by name: float32, evaluation mode, `requires_grad` as the framework sets it.

    `name`: "embedded:ctc" | "embedded:ctc-tts" | "embedded:whisper", the folder of a Hugging Face checkpoint (any CTC network over
    raw audio, or Whisper), an openai-whisper .pt file, the folder of a SpeechBrain CTC recogniser, or a hub id "owner/name".
    `trust_code`: allow SpeechBrain's hyperparams.yaml to run the code it names.
    `delta`: a delta file made for this model, `scale` times of which its weights have moved by.
    Raises InputError for a name that leads nowhere, for anything but a whole, finite checkpoint without pickles, and for another's delta.
    """
    model = _loaded(name, trust_code)
    if delta is not None:
        from asrlife.delta.file import load as read_delta
        from asrlife.delta.weights import adopt

        try:
            adopt(model.module, read_delta(Path(delta)), scale)
        except InputError as error:
            raise InputError(f"delta {os.fspath(delta)} on {model.name}: {error}") from error
    return model


def _loaded(name: str | os.PathLike[str], trust_code: bool) -> Recogniser:
    text = os.fspath(name)
    if text.startswith("embedded:"):
        return _read_folder(_embedded(text), text)
    path = Path(text).expanduser()
    if path.is_file():
        return _read_file(path, text)
    if (path / "hyperparams.yaml").is_file():
        from asrlife.models.speechbrain import read_speechbrain

        return read_speechbrain(path, text, trust_code)
    if path.is_dir():
        return _read_folder(path, text)
    return _read_folder(downloaded(text, INSTEAD), text)


def _embedded(text: str) -> Path:
    wanted = text.removeprefix("embedded:")
    if wanted == "lm":
        raise InputError(f"{text} is a language model, not a recogniser: load it with asrlife.load_text")
    if wanted not in EMBEDDED:
        raise InputError(f"there is no {text}: use {', '.join(f'embedded:{known}' for known in EMBEDDED)}")
    if not (ASSETS / wanted / "config.json").is_file():
        raise InputError(f"{text} is not in this installation: train it with `make embedded`, or install the released package")
    return ASSETS / wanted


def downloaded(text: str, instead: str, files: Sequence[str] = ("*.json", "*.txt", "*.safetensors")) -> Path:
    """The folder of a hub id with the `files` of these patterns; InputError where there is none, saying what to do `instead`."""
    if text.startswith((".", "/", "~")) or text.count("/") != 1 or Path(text).suffix in {".pt", ".safetensors"}:
        raise InputError(f"there is no file or folder {text!r}: {instead}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    silent = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return Path(snapshot_download(text, allow_patterns=list(files)))
    except HFValidationError as error:
        raise InputError(f"{text!r} is neither a folder nor a hub id: {instead}") from error
    except OSError as error:  # offline, unreachable, unknown, gated, not cached: hub errors and connection errors alike
        raise InputError(
            f"{text!r} is no folder here and the hub did not give it ({type(error).__name__}): {instead}, "
            f"or download it first with `hf download {text}` where there is a network"
        ) from error
    finally:
        if not silent:
            enable_progress_bars()


def _read_file(path: Path, name: str) -> Recogniser:
    if path.suffix != ".pt":
        raise InputError(f"{path} is a file, but not an openai-whisper .pt checkpoint: give the folder that holds it")
    from asrlife.models.openai import read_openai

    return read_openai(path, name)


def _read_folder(folder: Path, name: str) -> Recogniser:
    from asrlife.models.vocabulary import read_json

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: {INSTEAD}")
    config = read_json(folder / "config.json")
    architecture = (config.get("architectures") or ["unnamed"])[0]
    if architecture == "WhisperForConditionalGeneration":
        from asrlife.models.whisper import read_whisper

        return read_whisper(folder, name)
    if architecture.endswith("ForCTC"):
        return _read_ctc(folder, name)
    raise InputError(f"{folder} is a {architecture}, which is no recogniser asrlife knows: give a ...ForCTC or a Whisper checkpoint")


def _read_ctc(folder: Path, name: str) -> CtcRecogniser:
    from transformers import AutoModelForCTC

    from asrlife.models.checkpoint import card_of, feature_settings, read_weights
    from asrlife.models.ctc import CtcRecogniser
    from asrlife.models.pretext import read_head
    from asrlife.models.vocabulary import Vocabulary

    module: Any = read_weights(folder, AutoModelForCTC)
    config, features = module.config, feature_settings(folder)
    if module.main_input_name != "input_values" or not hasattr(config, "conv_kernel"):
        raise InputError(f"{folder}: {type(module).__name__} does not take raw audio: give a wav2vec2, HuBERT or WavLM checkpoint")
    return CtcRecogniser(
        name, module, int(features.get("sampling_rate", 16_000)),
        vocabulary=Vocabulary.read(folder, config.vocab_size, config.pad_token_id), frames=_frames(config),
        normalised=bool(features.get("do_normalize", True)), masked=_ignores_padding(config), card=card_of(folder),
        pretext=read_head(folder, config.num_hidden_layers, config.hidden_size),
    )  # fmt: skip


def _frames(config: Any) -> Any:
    from asrlife.models.frames import Frames

    strided = bool(getattr(config, "add_adapter", False))
    adapter = [(config.adapter_kernel_size, config.adapter_stride, 1)] * config.num_adapter_layers if strided else []
    return Frames.unpadded(config.conv_kernel, config.conv_stride, adapter)


def _ignores_padding(config: Any) -> bool:
    # a group norm runs over time, and a conformer's convolutions and a strided adapter reach over the end of an utterance
    plain = config.model_type in {"wav2vec2", "hubert", "wavlm"} and not getattr(config, "add_adapter", False)
    return plain and config.feat_extract_norm == "layer"


__all__ = ["load"]


def known_names() -> Mapping[str, Path]:
    """The embedded models that are installed."""
    return {f"embedded:{name}": ASSETS / name for name in EMBEDDED if (ASSETS / name / "config.json").is_file()}
