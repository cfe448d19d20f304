"""Causal traces of many facts, averaged by what each token is to its fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import Fact
from asrlife.data.world.forms import forward
from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_interval
from asrlife.evaluate.report import Table
from asrlife.evaluate.text import MOST, ended
from asrlife.methods.edit.audio_tracing import AudioTrace, Part, Window
from asrlife.methods.edit.tracing import ROLES, Kind, Trace, blur, trace
from asrlife.models.text import TextModel

WHOLE = ("states", "encoder", "decoder")
"""Kinds of which one layer is restored, whatever the window: above a whole state nothing of what was below is left."""


@dataclass(frozen=True)
class Effect:
    """A mean over `facts` prompts with its 95 % interval, which draws whole prompts."""

    mean: float
    low: float
    high: float
    facts: int


@dataclass(frozen=True, eq=False)
class Averaged:
    """Traces of one kind of many facts, `window` layers restored at once."""

    traces: tuple[Trace, ...]
    window: int = 1

    def __post_init__(self) -> None:
        if not self.traces:
            raise InputError("no traces have no mean: give at least one")

    @property
    def kind(self) -> Kind:
        """What was restored."""
        return self.traces[0].kind

    @cached_property
    def total(self) -> Effect:
        """TE."""
        return _effect(np.array([one.total for one in self.traces]))

    @cached_property
    def rows(self) -> dict[str, tuple[Effect, ...]]:
        """IE of each layer by what a token is, for what some prompt has; several such tokens of one prompt count as their mean."""
        found = {}
        for role in ROLES:
            held = [one.effect[[r == role for r in one.roles]].mean(0).double().numpy() for one in self.traces if role in one.roles]
            if held:
                found[role] = tuple(_effect(values) for values in np.stack(held).T)
        return found

    def table(self) -> Table:
        """A row for each kind of token, a column for each layer, in points of probability."""
        layers = len(self.traces[0].effect[0])
        rows = [[role, *(_cell(effect) for effect in effects)] for role, effects in self.rows.items()]
        return Table(
            f"{_title(self.kind, self.window)}, 95 % intervals in brackets", ["", *(f"layer {layer}" for layer in range(layers))], rows
        )

    def to_json(self) -> dict[str, Any]:
        """All means as plain values; probabilities as fractions."""
        rows = [
            {"tokens": role, "layer": layer, **vars(effect)} for role, effects in self.rows.items() for layer, effect in enumerate(effects)
        ]
        clean, corrupted = (float(np.mean([getattr(one, name) for one in self.traces])) for name in ("clean", "corrupted"))
        named = {"kind": self.kind, "window": self.window, "facts": len(self.traces), "clean": clean, "corrupted": corrupted}
        return {**named, "total": vars(self.total), "effects": rows}


def _effect(values: np.ndarray) -> Effect:
    return Effect(float(values.mean()), *rate_interval(values, np.ones(len(values))), len(values))


def _point(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"  # + 0.0: no minus before a zero


def _cell(effect: Effect) -> str:
    return f"{_point(effect.mean)}\n[{round(100 * effect.low)}, {round(100 * effect.high)}]"


def shown(token: str) -> str:
    """A token as a row is named by it."""
    return token.strip() or "␣" * len(token)


def named(window: Window, span: tuple[float, float]) -> str:
    """A part of the sound as a row is named by it, with a star where it had noise."""
    if window.name != "window":
        return f"{window.name}{'*' if window.name == 'word' else ''}"
    return f"{window.start:.2f} s{'*' if span[0] < (window.start + window.end) / 2 < span[1] else ''}"


def prompt_table(one: Trace, window: int) -> Table:
    """A row for each token, with a star for those of the subject, a column for each layer, in points of probability."""
    rows = [f"{shown(token)}{'*' if place in one.subject else ''}" for place, token in enumerate(one.tokens)]
    return _points(one.kind, rows, one.effect, window)


def word_tables(one: AudioTrace, window: int) -> list[Table]:
    """One for each part of the recogniser that was traced."""
    sound, tokens = [named(each, one.span) for each in one.windows], [shown(token) for token in one.tokens]
    return [_points(part, sound if part == "encoder" else tokens, effect, window) for part, effect in one.effects.items()]


def _points(kind: Kind | Part, names: Sequence[str], effect: Tensor, window: int) -> Table:
    rows = [[name, *(_point(value) for value in values)] for name, values in zip(names, effect.tolist(), strict=True)]
    return Table(_title(kind, window), ["", *(f"layer {layer}" for layer in range(effect.shape[1]))], rows)


def _title(kind: Kind | Part, window: int) -> str:
    many = f", {window} layers at once" if window > 1 and kind not in WHOLE else ""
    return f"Restored: {kind}{many} (points)"


def known(model: TextModel, facts: Sequence[Fact]) -> list[EditRequest]:
    """The facts that the model says by itself when it is given the first form of each that training saw.

    Raises InputError where it says none.
    """
    asked = [(fact, forward(fact)[0].prompt) for fact in facts]
    said = model.complete([prompt for _, prompt in asked], MOST) if asked else []
    found = [
        EditRequest(fact.subject, prompt, fact.object)
        for (fact, prompt), text in zip(asked, said, strict=True)
        if ended(text) == fact.object
    ]
    if not found:
        raise InputError(f"{model.name} says none of {len(facts)} facts: trace a model that knows them, as embedded:lm does")
    return found


def average(
    model: TextModel, requests: Sequence[EditRequest], kind: Kind = "states", window: int = 1, samples: int = 10, seed: int = 0,
    noise: float | None = None, advance: Callable[[], None] = lambda: None,
) -> Averaged:  # fmt: skip
    """Trace every prompt and average; the noise is three times the deviation of all subjects' embeddings unless given."""
    spread = blur(model, [request.subject for request in requests]) if noise is None else noise
    traces = []
    for number, request in enumerate(requests):
        traces.append(trace(model, request.prompt, request.subject, spread, kind, window, samples, seed + number))
        advance()
    return Averaged(tuple(traces), window)
