"""asrlife info."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.info_voices import tell_voices
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser


def info(
    model: Annotated[str, typer.Argument(help="embedded:ctc or another of them, a folder, a file, or a hub id; or: methods, voices.")],
    as_json: AsJson = False,
) -> None:
    """Say what a model is, what it can do, and what adapting it costs in memory.

    `asrlife info methods` lists the adaptation methods with their settings,
    `asrlife info voices` what `asrlife synthesize --voice` can name.

    Example: asrlife info embedded:ctc
    """
    if model == "methods":
        _tell_methods(as_json)
        return
    if model == "voices":
        tell_voices(as_json)
        return
    with console.results_only():
        document = describe_text(model) if _is_text(model) else _heard(model)
    if as_json:
        console.emit(document)
    else:
        _show(document)


def _heard(name: str) -> dict[str, Any]:
    from asrlife.models.load import load

    return describe(load(name))


def _is_text(name: str) -> bool:
    """Whether a model is embedded:lm, or a folder whose configuration names a causal language model."""
    path = Path(name).expanduser() / "config.json"
    with suppress(OSError, ValueError, AttributeError):
        named = json.loads(path.read_text(encoding="utf-8")).get("architectures") or [""]
        return str(named[0]).endswith(("ForCausalLM", "LMHeadModel"))
    return name == "embedded:lm"


def describe_text(name: str) -> dict[str, Any]:
    """The same of a causal language model, which hears nothing and has no streams."""
    from asrlife.models.text import load_text

    model = load_text(name)
    config = model.module.config
    return {
        "model": model.name,
        "parameters": sum(tensor.numel() for tensor in model.module.parameters()),
        "tokens": int(config.vocab_size),
        "layers": int(config.num_hidden_layers),
        "width": int(config.hidden_size),
        "fingerprint": model.fingerprint(),
        "card": dict(model.card),
    }


def methods() -> list[dict[str, Any]]:
    """Every registered method: its name, what it does in a sentence, and its settings with their defaults, before any model's card."""
    from asrlife.methods.online import METHODS

    return [{"name": name, "summary": _sentence(kind), "settings": _defaults(kind)} for name, kind in METHODS.items()]


def _sentence(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def _defaults(kind: Any) -> dict[str, Any]:
    default = kind()
    return {field.name: getattr(default, field.name) for field in fields(kind) if field.name != "name"}


def _tell_methods(as_json: bool) -> None:
    with console.results_only():
        found = methods()
    if as_json:
        console.emit({"methods": found})
        return
    from rich.text import Text

    rows = []
    for method in found:
        settings = "  ".join(f"{key}={value}" for key, value in method["settings"].items())
        rows.append((Text(method["name"], "bold"), Text(f"{method['summary']}\n") + Text(settings or "no settings", "dim")))
    console.catalogue(rows)
    console.out().print("A model's card may have other defaults. Change them with --set KEY=VALUE,")
    console.out().print("or for one of several methods: --adapt 'none,LABEL=NAME:KEY=VALUE;KEY=VALUE'.")


def describe(model: Recogniser) -> dict[str, Any]:
    """Everything `info` knows: sizes in parameters, states in bytes, rate in Hz."""
    sizes = {name: tensor.numel() for name, tensor in model.module.named_parameters()}
    groups = {group: {"tensors": len(names), "parameters": sum(sizes[n] for n in names)} for group, names in model.groups().items()}
    return {
        "model": model.name,
        "parameters": sum(sizes.values()),
        "rate": model.rate,
        "capabilities": sorted(model.capabilities),
        "groups": groups,
        "state_bytes": _states(model),
        "fingerprint": model.fingerprint(),
        "card": dict(model.card),
    }


def _states(model: Recogniser) -> dict[str, int]:
    """Bytes that a stream starts with under each method that works on the model as it is; some need settings, some other models."""
    from asrlife.errors import InputError
    from asrlife.methods.online import METHODS, make

    found = {}
    for name in METHODS:
        with suppress(InputError):
            found[name] = make(name, {}, model).start(model).size
    return found


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "tokens" in document:
        yield from ((name, f"{document[name]:,}") for name in ("tokens", "layers", "width"))
        return
    yield "sound", f"{document['rate']} Hz"
    yield "can do", ", ".join(document["capabilities"])
    for name, group in document["groups"].items():
        yield f"group {name}", f"{group['parameters']:,} parameters in {group['tensors']} tensors"
    for name, size in document["state_bytes"].items():
        yield f"state of {name}", f"{size / 1000:,.0f} kB a stream" if size else "nothing"


def _show(document: dict[str, Any]) -> None:
    import yaml
    from rich.table import Table

    out = console.out()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("model", document["model"])
    table.add_row("parameters", f"{document['parameters']:,}")
    for name, value in _rows(document):
        table.add_row(name, value)
    table.add_row("fingerprint", document["fingerprint"])
    out.print(table)
    if document["card"]:
        out.print("\n[bold]card[/bold]")
        out.print(yaml.safe_dump(document["card"], sort_keys=False, allow_unicode=True, width=78).rstrip(), markup=False, soft_wrap=True)
