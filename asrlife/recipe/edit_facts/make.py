"""One delta from some requests, judged beside the model as it is and beside the same facts in context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asrlife.data.edit import EditRequest
    from asrlife.delta.delta import Delta
    from asrlife.evaluate.text import Comparison, Verdict
    from asrlife.methods.edit.editors import Editor
    from asrlife.methods.edit.in_context import Prompter
    from asrlife.models.text import TextModel

_SHOTS = 8  # as the authors of IKE have it, at most
BASE, CONTEXT, IKE = "not edited", "in context", "ike"


@dataclass(frozen=True)
class Done:
    """The delta, the layers it moves, and what the three say."""

    delta: Delta
    layers: tuple[int, ...]
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """Figures and every answer."""
        said = [
            {"subject": verdict.subject, "probe": outcome.probe.name, "prompt": a.question.prompt, "said": a.completion, "right": a.right}
            for verdict in self.comparison.verdicts
            for outcome in verdict.outcomes
            for a in outcome.answers
        ]
        return {**self.comparison.to_json(), "layers": list(self.layers), "answers": said}


def changed(
    model: TextModel, requests: Sequence[EditRequest], editor: Editor, premise: str, *, batch: int = 0, seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Done:  # fmt: skip
    """Make and judge it. Where the editor names no layers, tracing chooses the last of them by what `model` knows of these subjects now."""
    prompted = prompters(model, premise, requests)
    from asrlife.evaluate.editing import case_of, judge_all, judge_each
    from asrlife.evaluate.text import Comparison
    from asrlife.methods.edit.edit import edit
    from asrlife.methods.edit.placing import placed

    editor = placed(model, requests, editor, seed)
    delta = edit(model, requests, editor, batch=batch, seed=seed, advance=advance)
    cases = [case_of(model, request) for request in requests]
    verdicts: tuple[Verdict, ...] = (
        judge_all(model, cases, None, BASE),
        *(judge_each(model, cases, asked=prompter.asked, subject=name) for name, prompter in prompted.items()),
        judge_all(model, cases, delta, editor.name),
    )
    facts = {"model": model.name, "edits": str(len(requests)), "layers": ", ".join(map(str, editor.layers or ()))}
    return Done(delta, editor.layers or (), Comparison(f"{len(requests)} edits", verdicts, facts))


def prompters(model: TextModel, premise: str, demonstrations: Sequence[EditRequest]) -> dict[str, Prompter]:
    """The baselines that change no weight: the new fact before the question and, where there are other facts to show it with, IKE, with as
    many of them as the network has places for."""
    from asrlife.methods.edit.in_context import InContext, Plain

    found: dict[str, Prompter] = {CONTEXT: Plain(premise)}
    longest = 2 * max((len(model.ids(request.statement)) for request in demonstrations), default=0)
    shots = min(_SHOTS, model.places // longest - 2) if longest else 0
    if shots > 0 and len({request.subject for request in demonstrations}) > 1:
        between = "\n\n" if "\n" in premise else " "
        found[IKE] = InContext(premise, demonstrations=tuple(demonstrations), shots=shots, between=between)
    return found
