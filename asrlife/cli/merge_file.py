"""asrlife merge CONFIG.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asrlife.cli import console

_WHAT = {"merge": "merged", "copy": "copied", "pair": "weight-norm pairs", "average": "BatchNorm statistics averaged"}


def merge_file(path: Path, out: Path, shard_size: int, options: dict[str, Any], as_json: bool) -> None:
    """Do what a file says, and print what was done: the card, or a few lines."""
    card = _merged(path, out, shard_size, options)
    if as_json:
        console.emit(card)
        return
    counts, checked = card["tensors"], card["checked"] or {"ran": False}
    print(f"{out}: {card['method']}; " + ", ".join(f"{counts[kind]} {name}" for kind, name in _WHAT.items() if counts.get(kind)))
    if card["batchnorm"]:
        console.warn("BatchNorm statistics of merged weights are approximate: recompute them on audio")
    heard = f"heard {checked['heard']!r} in noise" if "heard" in checked else f"scores {checked.get('logits')}"
    print(f"loaded and run: {heard}" if checked["ran"] else "not run: load it where you use it before you trust it")


def _merged(path: Path, out: Path, shard_size: int, options: dict[str, Any]) -> dict[str, Any]:
    with console.results_only():
        from asrlife.methods.merge import run
        from asrlife.methods.merge.config import read
        from asrlife.methods.merge.plan import plan

        config = read(path)
        found = plan(config, run.opened(config, path.parent))
        with console.progress(f"{config.merge_method}", len(found.jobs)) as advance:
            return run.run(found, out, shard_size=shard_size, advance=advance, **options)
