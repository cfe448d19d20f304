"""A file of text as a corpus of speech: lines prepared and accounted for, read aloud, changed, and put on a page to listen to."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asrlife.audio.engines import expanded
from asrlife.data.augmentation import check
from asrlife.data.condition import NOISES, ROOMS, sounds
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.recipe.registry import Bar
from asrlife.recipe.speech import VOICES, Diversity, Reading, check_voices, read_aloud, readings
from asrlife.text.lines import read_lines
from asrlife.text.prepare import Prepared, Rules, prepare

ACCOUNT, TABLE, PAGE = "lines.json", "lines.tsv", "listen.html"


@dataclass(frozen=True)
class Wish:
    """What is to be read aloud, where to, and how; `model` names a recogniser whose letters the transcripts are to keep to."""

    text: Path
    out: Path
    voices: tuple[str, ...] = VOICES
    seed: int = 0
    diversity: Diversity = Diversity()
    rules: Rules = Rules()
    model: str | None = None
    column: str | None = None
    key: str | None = None
    most: int | None = None  # sentences
    workers: int = 1


@dataclass(frozen=True)
class Made:
    """The manifest, the page, the account of the lines, the readings, and those that failed with the reason."""

    manifest: Path
    page: Path
    prepared: Prepared
    plans: tuple[Reading, ...]
    failures: tuple[tuple[Reading, str], ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """For `--json` and results of recipes."""
        good = [plan for plan in self.plans if plan not in {failure for failure, _ in self.failures}]
        return {
            "manifest": str(self.manifest),
            "page": str(self.page),
            "account": str(self.manifest.parent / ACCOUNT),
            "utterances": len(good),
            "voices": sorted({plan.voice for plan in good}),
            "augmented": sum(bool(plan.augmentation.to_json()) for plan in good),
            "text": self.prepared.counts(),
            "failed": _failed(self.failures),
        }


def synthesise(wish: Wish, bar: Bar) -> Made:
    """Prepare the text, read it aloud, and write OUT/transcripts.jsonl, audio/, lines.json, lines.tsv and listen.html.

    All that can be refused is refused before anything is written: text, voices, augmentations. A line that nothing can be made of is in
    the account; raises InputError where that is every line.
    """
    prepared = prepared_text(wish, bar)
    return spoken(wish, prepared, readings(prepared.sentences, expanded(wish.voices), wish.seed, wish.diversity), bar)


def prepared_text(wish: Wish, bar: Bar) -> Prepared:
    """The sentences of the text and what became of each line; raises InputError as `synthesise` does, and writes nothing."""
    lines = read_lines(wish.text, wish.column, wish.key)
    check_voices(expanded(wish.voices))
    check(wish.diversity.augment)
    for kind, name, made_ones in (("noise", wish.diversity.noise, NOISES), ("room", wish.diversity.room, ROOMS)):
        if name is not None and name not in made_ones:
            sounds(name, kind, made_ones)
    rules = wish.rules if wish.model is None else replace(wish.rules, alphabet=alphabet(wish.model))
    with bar("preparing text", len(lines)) as advance:
        prepared = prepare(lines, rules, advance).limited(wish.most)
    if not prepared.sentences:
        raise InputError(f"{wish.text}: no line can be read aloud: {_causes(prepared)}")
    return prepared


def spoken(wish: Wish, prepared: Prepared, plans: Sequence[Reading], bar: Bar) -> Made:
    """Read aloud what was planned from prepared text; writes what `synthesise` names; InputError where no reading succeeds."""
    _write_account(prepared, wish.out)
    failures: list[tuple[Reading, str]] = []
    with bar("reading aloud", len(plans)) as advance:
        manifest = read_aloud(plans, wish.out, advance, wish.workers, lambda plan, why: failures.append((plan, why)))
    _write_account(prepared, wish.out, failures)
    if len(failures) == len(plans):
        raise InputError(f"no reading succeeded; the first: {failures[0][1]}")
    return _paged(Made(manifest, wish.out / PAGE, prepared, tuple(plans), tuple(failures)), wish)


def alphabet(model: str) -> frozenset[str] | None:
    """The characters that a recogniser can spell; None for one that spells anything, as Whisper does."""
    from asrlife.models.load import load

    vocabulary = getattr(load(model), "vocabulary", None)
    return None if vocabulary is None else vocabulary.letters


def cores() -> int:
    """How many processes this one may keep busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failed(failures: Sequence[tuple[Reading, str]]) -> list[dict[str, Any]]:
    return [{"id": plan.name, "line": plan.line, "voice": plan.voice, "why": why} for plan, why in failures]


def _write_account(prepared: Prepared, out: Path, failures: Sequence[tuple[Reading, str]] = ()) -> None:
    with atomic(out / ACCOUNT, "w") as file:
        json.dump({**prepared.to_json(), "failed": _failed(failures)}, file, ensure_ascii=False, indent=1)
        file.write("\n")
    with atomic(out / TABLE, "w") as file:
        file.write("line\tverdict\tsentences\twhy\ttext\n")
        file.writelines("\t".join([str(f.line), f.verdict, str(f.sentences), "; ".join(f.why), f.excerpt]) + "\n" for f in prepared.fates)


def _paged(made: Made, wish: Wish) -> Made:
    from asrlife.recipe.listen import render

    with atomic(made.page, "w") as file:
        file.write(render(made, wish))
    return made


def _causes(prepared: Prepared) -> str:
    causes = Counter(why for fate in prepared.fates for why in fate.why)
    first = "; ".join(f"{why} ({count} x)" if count > 1 else why for why, count in causes.most_common(3))
    return f"{len(prepared.fates)} left out: {first}"
