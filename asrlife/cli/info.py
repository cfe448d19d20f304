"""asrlife info."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser


def info(
    model: Annotated[str, typer.Argument(help="embedded:ctc, embedded:whisper, a local folder or file, or a hub id.")],
    as_json: AsJson = False,
) -> None:
    """Say what a model is, what it can do, and what adapting it costs in memory.

    Example: asrlife info embedded:ctc
    """
    with console.results_only():
        from asrlife.models.load import load

        document = describe(load(model))
    if as_json:
        console.emit(document)
    else:
        _show(document)


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
    from asrlife.methods.online import METHODS, make

    states = {name: make(name, {}, model).start(model) for name in METHODS}
    return {name: sum(t.numel() * t.element_size() for t in (s.weights, s.first, s.second)) for name, s in states.items()}


def _show(document: dict[str, Any]) -> None:
    import yaml
    from rich.table import Table

    out = console.out()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("model", document["model"])
    table.add_row("parameters", f"{document['parameters']:,}")
    table.add_row("sound", f"{document['rate']} Hz")
    table.add_row("can do", ", ".join(document["capabilities"]))
    for name, group in document["groups"].items():
        table.add_row(f"group {name}", f"{group['parameters']:,} parameters in {group['tensors']} tensors")
    for name, size in document["state_bytes"].items():
        table.add_row(f"state of {name}", f"{size / 1000:,.0f} kB a stream" if size else "nothing")
    table.add_row("fingerprint", document["fingerprint"])
    out.print(table)
    if document["card"]:
        out.print("\n[bold]card[/bold]")
        out.print(yaml.safe_dump(document["card"], sort_keys=False, allow_unicode=True, width=78).rstrip(), markup=False, soft_wrap=True)
