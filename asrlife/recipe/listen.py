"""A page to listen to what was read aloud: players beside text, voice and augmentation; links are relative, nothing else is loaded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asrlife.recipe.aloud import Made, Wish
    from asrlife.recipe.speech import Reading

MOST = 500  # players on the page, drawn evenly from the readings
MOST_LINES = 200  # lines of the account on the page, those left out first


def render(made: Made, wish: Wish) -> str:
    """The whole page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    failed = {plan for plan, _ in made.failures}
    good = [plan for plan in made.plans if plan not in failed]
    shown = good if len(good) <= MOST else [good[place * len(good) // MOST] for place in range(MOST)]
    rows = (json.loads(line) for line in made.manifest.read_text(encoding="utf-8").splitlines())
    seconds = {row["id"]: row["duration"] for row in rows}
    noted = sorted((fate for fate in made.prepared.fates if fate.verdict != "used"), key=lambda fate: fate.verdict != "left out")
    return environment.get_template("listen.html.j2").render(
        title=wish.text.name,
        clips=[_clip(plan, seconds[plan.name]) for plan in shown],
        total=len(good),
        counts=made.prepared.counts(),
        voices=Counter(plan.voice for plan in good).most_common(),
        seed=wish.seed,
        fates=noted[:MOST_LINES],
        noted=len(noted),
        failures=made.failures,
    )


def _clip(plan: Reading, seconds: float) -> dict[str, Any]:
    return {
        "id": plan.name,
        "file": plan.file,
        "words": _marked(plan),
        "said": plan.said,
        "voice": plan.voice,
        "prosody": f"{seconds:.1f} s, {plan.prosody.words_per_minute} words/min, pitch {plan.prosody.pitch}",
        "changed": plan.augmentation.name if plan.augmentation.to_json() else "",
    }


def _marked(plan: Reading) -> list[tuple[str, str]]:
    """The transcript in pieces, each with the label of the entity it is, or none."""
    words, pieces, at = plan.text.split(), list[tuple[str, str]](), 0
    for entity in plan.entities:
        pieces += [(" ".join(words[at : entity.start]), ""), (" ".join(words[entity.start : entity.end]), entity.label)]
        at = entity.end
    return [piece for piece in (*pieces, (" ".join(words[at:]), "")) if piece[0]]
