"""Verdicts on disk, so that a run that was stopped asks nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asrlife.data.world.edits import Case
    from asrlife.evaluate.text import Verdict


def kept(path: Path, settings: Mapping[str, Any], subject: str, cases: Sequence[Case], judge: Callable[[], Verdict]) -> Verdict:
    """What `judge` says of the cases, or said in an earlier run with the same settings."""
    from asrlife.files import atomic

    if path.is_file() and (known := json.loads(path.read_text(encoding="utf-8")))["settings"] == settings:
        return restored(subject, cases, known["answers"], known["perplexity"])
    verdict = judge()
    answers = {o.probe.name: [[a.completion, a.right, a.forced] for a in o.answers] for o in verdict.outcomes}
    with atomic(path, "w") as file:
        json.dump({"settings": dict(settings), "perplexity": verdict.perplexity, "answers": answers}, file)
    return verdict


def restored(subject: str, cases: Sequence[Case], answers: Mapping[str, Sequence[Sequence[Any]]], perplexity: float | None) -> Verdict:
    """The verdict of answers to the questions of cases, in their order."""
    from dataclasses import replace

    from asrlife.evaluate.editing import joined, probes_of
    from asrlife.evaluate.text import Answer, Outcome, Verdict

    rest = {name: iter(found) for name, found in answers.items()}
    verdicts = [
        Verdict(
            subject,
            tuple(Outcome(p, tuple(Answer(question, *next(rest[p.name])) for question in p.questions)) for p in probes_of(case)),
            None,
        )
        for case in cases
    ]
    return replace(joined(verdicts, subject), perplexity=perplexity)
