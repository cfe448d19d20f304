"""Where the models and files that a merge names are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from asrlife.delta.adapted import Adapted
from asrlife.delta.checkpoint import Checkpoint
from asrlife.errors import InputError
from asrlife.methods.merge.tokens import respelt

if TYPE_CHECKING:
    from asrlife.methods.merge.config import MergeConfig
    from asrlife.models.handle import Recogniser
    from asrlife.models.text import TextModel

TEXT = ("ForCausalLM", "LMHeadModel")
"""How architectures of language models end."""


def opened(config: MergeConfig, beside: Path = Path()) -> dict[str, Checkpoint]:
    """The checkpoints that a merge names: embedded:NAME, folders or files here or beside the YAML file, or hub ids; headers are read.

    MODEL+ADAPTER is a model with a LoRA folder of peft on it. Where the merge asks for a tokenizer, all have the rows of its tokens.
    """
    return respelt(config, {name: _opened(name, beside) for name in config.references})


def _opened(name: str, beside: Path) -> Checkpoint:
    if "+" not in name or any(path.exists() for path in (Path(name).expanduser(), beside / name)):
        return Checkpoint.open(located(name, beside))
    model, _, adapter = name.rpartition("+")
    return Adapted(Checkpoint.open(located(model, beside)), located(adapter, beside))


def located(name: str, beside: Path = Path()) -> Path:
    """Where a model is; what is neither here nor beside the file is fetched from the hub. InputError where it is nowhere."""
    from asrlife.models.load import ASSETS, downloaded

    if name.startswith("embedded:"):
        return ASSETS / name.removeprefix("embedded:")
    for path in (Path(name).expanduser(), beside / name):
        if path.exists():
            return path
    return downloaded(name, "give the folder of a checkpoint, here or beside the file that names it")


def file(name: str, beside: Path, what: str) -> Path:
    """A file that is named, here or beside the one that names it; InputError, saying `what` it should be, where it is nowhere."""
    for path in (Path(name).expanduser(), beside / name):
        if path.is_file():
            return path
    raise InputError(f"{what}: there is no file {name!r}, here or beside the file that names it")


def handle(name: str, beside: Path = Path()) -> Recogniser | TextModel:
    """The model `name`, loaded: a recogniser, or a causal language model where its config.json says so; InputError as `load` raises."""
    from asrlife.models.load import load
    from asrlife.models.text import load_text

    path = located(name, beside)
    wanted = name if name.startswith("embedded:") else path
    return load_text(wanted) if _architecture(path).endswith(TEXT) else load(wanted)


def _architecture(folder: Path) -> str:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str((found.get("architectures") or [""])[0])
    except (OSError, ValueError, AttributeError):  # load says what is wrong with it
        return ""
