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
        console.warn(
            "BatchNorm statistics of merged weights are approximate: recompute them on audio with "
            f"`asrlife repair {out} --method batchnorm --data AUDIO.jsonl --out {out}-repaired`"
        )
    if card["learnt"] and card["learnt"]["entropy"]:
        entropies = card["learnt"]["entropy"]
        few = entropies[:10], entropies[-10:]
        before, after = (sum(part) / len(part) for part in few)
        print(f"learnt: {len(entropies)} steps, mean entropy {before:.4f} to {after:.4f} nats (first and last {len(few[0])} steps)")
    heard = f"heard {checked['heard']!r} in noise" if "heard" in checked else f"scores {checked.get('logits')}"
    print(f"loaded and run: {heard}" if checked["ran"] else "not run: load it where you use it before you trust it")


def _merged(path: Path, out: Path, shard_size: int, options: dict[str, Any]) -> dict[str, Any]:
    with console.results_only():
        from asrlife.delta.writer import check_absent
        from asrlife.methods.merge import run
        from asrlife.methods.merge.config import read
        from asrlife.methods.merge.places import opened
        from asrlife.methods.merge.plan import plan
        from asrlife.methods.merge.registry import METHODS

        config = read(path)
        found = plan(config, opened(config, path.parent), path.parent)
        check_absent(out)
        if METHODS[config.merge_method].data:
            steps = max((getattr(job.method, "steps", 0) for job in found.jobs), default=0)
            with console.progress("learning coefficients", steps) as advance:
                found = run.learnt(found, out, advance)
        with console.progress(f"{config.merge_method}", len(found.jobs)) as advance:
            return run.run(found, out, shard_size=shard_size, advance=advance, **options)
