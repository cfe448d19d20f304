"""Models and deltas as they are named on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from asrlife.delta.checkpoint import Checkpoint
    from asrlife.delta.delta import Delta

Match = Annotated[str, typer.Option("--match", metavar="REGEX", help="Only tensors in whose name this regular expression is found.")]
Roles = Annotated[
    list[str] | None, typer.Option("--role", help="Only tensors of this role, as in encoder, cross-attention, norm. Repeat it.")
]
Without = Annotated[list[str] | None, typer.Option("--without-role", help="No tensors of this role, as in embedding, head. Repeat it.")]
Layers = Annotated[str | None, typer.Option(metavar="N-M", help="Only these layers of each stack, from 0: 0-5, or 3.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: what each tensor has in the first model.")]


def checkpoint(text: str) -> Checkpoint:
    """The checkpoint `text`: embedded:NAME, a folder, or a .safetensors file."""
    from asrlife.delta.checkpoint import Checkpoint
    from asrlife.errors import InputError
    from asrlife.models.load import known_names
    from asrlife.models.text import known_texts

    if text.startswith("embedded:"):
        known = {**known_names(), **known_texts()}
        if text not in known:
            raise InputError(f"there is no {text}: use {', '.join(known)}")
        return Checkpoint.open(known[text])
    return Checkpoint.open(text)


def delta(path: Path) -> Delta:
    """The delta file `path`."""
    from asrlife.delta.file import load
    from asrlife.errors import InputError

    if path.is_dir():
        adapter = (path / "adapter_config.json").is_file()
        fix = "make it one with `asrlife delta import`" if adapter else "take the difference to its base with `asrlife delta diff`"
        raise InputError(f"{path} is {'a peft adapter' if adapter else 'a model'}, not a delta file: {fix}")
    return load(path)


def operand(text: str) -> Checkpoint | Delta:
    """The checkpoint or the delta file `text`, whichever it is."""
    from asrlife.delta.shards import Shard

    path = Path(text)
    if path.suffix == ".safetensors" and path.is_file() and Shard(path).metadata.get("format") == "asrlife delta":
        return delta(path)
    return checkpoint(text)


def layers(text: str | None) -> tuple[int, int] | None:
    """First and last of "N-M" or "N"."""
    from asrlife.errors import InputError

    if text is None:
        return None
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise InputError(f"--layers {text!r}: write N-M or N, counted from 0, as in 0-5")
    return int(first), int(last or first)


def dtype(text: str | None) -> torch.dtype | None:
    """The floating dtype of that name."""
    import torch

    from asrlife.errors import InputError

    known = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if text is not None and text not in known:
        raise InputError(f"unknown dtype {text!r}: use {', '.join(known)}")
    return None if text is None else known[text]


def chosen(names: list[str], match: str, roles: list[str] | None, without: list[str] | None, span: str | None) -> list[str] | None:
    """The names that the options leave, None where no option says anything; InputError where they leave none."""
    from asrlife.delta.roles import chosen as choose
    from asrlife.errors import InputError

    if not (match or roles or without or span):
        return None
    kept = choose(names, match, roles=roles or (), without=without or (), layers=layers(span))
    if not kept:
        raise InputError(f"--match, --role, --without-role and --layers leave no tensor of {', '.join(names[:3])} ...")
    return kept
