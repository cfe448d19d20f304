"""Reading a Hugging Face checkpoint folder without surprises: safetensors only, every weight there and finite, no chatter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asrlife.errors import InputError
from asrlife.models.vocabulary import read_json

CONVERT = "convert it once where you trust it: transformers' AutoModelFor...from_pretrained(OLD).save_pretrained(NEW)"
NEVER_USED = ("masked_spec_embed",)  # it only masks training audio


def read_weights(folder: Path, auto: Any) -> nn.Module:
    """The network that `auto` builds from config.json and *.safetensors, float32 and in evaluation mode.

    Raises InputError for pickles, damaged files, weights that are missing, of another shape or not finite.
    """
    check_files(folder)
    with quiet():
        try:
            module, report = auto.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder} does not load: {_line(error)}; config.json and the weights must be of one checkpoint") from error
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(NEVER_USED))
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} weights such as {missing[0]}: give a checkpoint fine-tuned for recognition")
    check_finite(module, folder)
    return module.eval()


def check_files(folder: Path) -> None:
    """Raise InputError where there are no safetensors, or one is damaged."""
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob("*.safetensors"))
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)]
    if not weights and pickles:
        raise InputError(f"{folder} holds only {pickles[0]}, a pickle, which can run code: {CONVERT}")
    if not weights:
        raise InputError(f"{folder} holds no *.safetensors: give the folder of a whole checkpoint")
    for path in weights:
        try:
            with safe_open(path, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or cut short ({_line(error)}): copy or download it again") from error


def check_finite(module: nn.Module, source: Path) -> None:
    """Raise InputError where a weight is NaN or infinite."""
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"{source}: weight {name} holds NaN or infinity, its training diverged: give another checkpoint")


def card_of(folder: Path) -> Mapping[str, Any]:
    """What card.json says, {} without one."""
    return read_json(folder / "card.json") if (folder / "card.json").is_file() else {}


def feature_settings(folder: Path) -> Mapping[str, Any]:
    """The feature extractor's settings, from preprocessor_config.json or processor_config.json; {} without either."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return read_json(folder / "processor_config.json").get("feature_extractor", {})
    return {}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from logging warnings and drawing progress bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
