"""From a merge and what it is to be searched on to a search, and to what lies beside the merged model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.delta.checkpoint import Checkpoint
from asrlife.errors import InputError
from asrlife.evaluate.bench import Merging
from asrlife.evaluate.objective import objective
from asrlife.evaluate.search import Found, search, text
from asrlife.evaluate.search_picture import picture
from asrlife.files import atomic

if TYPE_CHECKING:
    from asrlife.methods.merge.config import Search

PROBES, RESULT, PICTURE = "probes.json", "search.json", "search.png"
"""Names of files beside the model, `OUT.` before them, the last two in its folder too."""


def beside(out: Path, name: str) -> Path:
    """Where a file of the search for the model `out` is."""
    return out.with_name(f"{out.name}.{name}")


def searched(
    merging: Merging, asked: Search, out: Path, *, home: Path = Path(), stamp: Any = None, advance: Callable[[], None] = lambda: None
) -> Found:
    """Load the donor's network, measure merges in it, and leave OUT.probes.json, OUT.search.json and OUT.search.png beside `out`.

    `home` is where the data are looked for if they are not here. A run that was interrupted, or asked for more probes, goes on with the
    probes that are there. Raises InputError, as the search does, before anything is loaded where the data are not there.
    """
    data = Path(asked.data).expanduser()
    data = data if data.exists() else home / asked.data
    if not data.is_file():
        raise InputError(f"search: there is no file {asked.data!r} to search on: give a JSONL manifest, or text for a language model")
    model = loaded(merging.donor)
    goal = objective(model, data, asked.split, asked.limit, asked.metric)
    options = {"keep": beside(out, PROBES), "stamp": stamp, "probes": asked.probes, "seed": asked.seed, "advance": advance}
    found = search(merging, goal, model.module, asked.parameters, **options)
    with atomic(beside(out, RESULT), "w") as file:
        file.write(text(found))
    picture(found, beside(out, PICTURE))
    return found


def put_in(out: Path) -> None:
    """Copy the result and the picture of a search into the folder of the model that was written."""
    if out.is_dir():
        for name in (RESULT, PICTURE):
            shutil.copyfile(beside(out, name), out / name)


def loaded(donor: Checkpoint) -> Any:
    """The recogniser or causal language model of a checkpoint's folder."""
    config = donor.folder / "config.json"
    if not config.is_file():
        raise InputError(f"search: {donor.folder} has no config.json, and merges are measured in its network: give the folder of a model")
    architecture = (json.loads(config.read_text(encoding="utf-8")).get("architectures") or ["unnamed"])[0]
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        from asrlife.models.text import load_text

        return load_text(donor.folder)
    from asrlife.models.load import load

    return load(donor.folder)
