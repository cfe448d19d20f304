"""asrlife merge CONFIG.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.cli import console, merge_search

if TYPE_CHECKING:
    from asrlife.evaluate.search import Found
    from asrlife.methods.merge.config import MergeConfig

_WHAT = {"merge": "merged", "copy": "copied", "pair": "weight-norm pairs", "average": "BatchNorm statistics averaged"}


def merge_file(path: Path, out: Path, shard_size: int, options: dict[str, Any], asked: merge_search.Asked, as_json: bool) -> None:
    """Do what a file says, its search first, and print what was done: the card, or a few lines."""
    card, found = _merged(path, out, shard_size, options, asked)
    if as_json:
        console.emit(card)
        return
    if found is not None:
        merge_search.show(found)
    counts = card["tensors"]
    print(f"{out}: {card['method']}; " + ", ".join(f"{counts[kind]} {name}" for kind, name in _WHAT.items() if counts.get(kind)))
    if card["batchnorm"]:
        console.warn("BatchNorm statistics of merged weights are approximate: recompute them on audio")
    print(ran(card["checked"]))


def ran(checked: dict[str, Any] | None) -> str:
    """What a merged model did when it was run once."""
    checked = checked or {"ran": False}
    heard = f"heard {checked['heard']!r} in noise" if "heard" in checked else f"scores {checked.get('logits')}"
    return f"loaded and run: {heard}" if checked["ran"] else "not run: load it where you use it before you trust it"


def _merged(
    path: Path, out: Path, shard_size: int, options: dict[str, Any], asked: merge_search.Asked
) -> tuple[dict[str, Any], Found | None]:
    with console.results_only():
        from asrlife.evaluate.merge_search import put_in
        from asrlife.methods.merge import run
        from asrlife.methods.merge.config import read
        from asrlife.methods.merge.plan import plan

        config = read(path)
        config = config.model_copy(update={"search": asked.over(config.search)})
        models = run.opened(config, path.parent)
        chosen, found = _searched(config, models, out, path.parent, options["threads"])
        planned = plan(chosen, models)
        with console.progress(f"{config.merge_method}", len(planned.jobs)) as advance:
            told = None if found is None else merge_search.told(found)
            card = run.run(planned, out, shard_size=shard_size, told=told, advance=advance, **options)
        if found is not None:
            put_in(out)
        return card, found


def _searched(config: MergeConfig, models: dict[str, Any], out: Path, home: Path, threads: int | None) -> tuple[MergeConfig, Found | None]:
    """The merge at the settings that its search chooses."""
    from asrlife.delta.writer import check_absent
    from asrlife.evaluate.merge_search import searched
    from asrlife.methods.merge.resident import Resident
    from asrlife.methods.merge.run import stamp

    if config.search is None:
        return config, None
    check_absent(out)
    merging = Resident(config, models, tuple(config.search.parameters), threads)
    with console.progress("searching", config.search.probes + 2) as advance:
        found = searched(merging, config.search, out, home=home, stamp=stamp(merging.plan), advance=advance)
    return merging.settled(found.winner.values or {}), found
