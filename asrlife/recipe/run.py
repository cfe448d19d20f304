"""Do the steps of a recipe one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asrlife.files import atomic
from asrlife.recipe.recipe import Recipe
from asrlife.recipe.registry import Bar, Place


def run(recipe: Recipe, out: Path, bar: Bar, show: bool = False) -> dict[str, Any]:
    """Run every step into the folder `out` and return {"recipe", "out", "steps": {name: what it found}}, kept as out/results.json."""
    place = Place(recipe.folder, out, bar, show)
    out.mkdir(parents=True, exist_ok=True)
    steps = {name: dict(step.run(place)) for name, step in recipe.steps.items()}
    results = {"recipe": recipe.name, "out": str(out), "steps": steps}
    with atomic(out / "results.json", "w") as file:
        json.dump(results, file, indent=2, ensure_ascii=False, allow_nan=False)
    return results
