"""What streams learn from their utterances, several of them in one call where the method can."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.methods.online.method import Event
from asrlife.methods.online.restore import drift, finite
from asrlife_server import oddities
from asrlife_server.jobs import Task
from asrlife_server.opening import Opening
from asrlife_server.work import Spoken, Step


@dataclass(frozen=True, eq=False)
class Lesson:
    """An utterance of so many `seconds` to be learnt from in `state`.

    `unfit` says why it teaches nothing, "" where it may; `heard` makes what the method takes; `bounded` has the last word on a step.
    """

    spoken: Spoken
    state: Any
    seconds: float
    unfit: Callable[[Spoken], str]
    heard: Callable[[Spoken], Utterance]
    bounded: Callable[[Any, Step], Step]

    def passed(self, reason: str) -> Step:
        """What stands in for a step that is not taken."""
        return Step(self.spoken, None, self.state, (Event("skipped", {"reason": reason}),))


def task(method: Any, lesson: Lesson) -> Task[Step]:
    """The task of learning one lesson by `method`."""

    def together(model: Any, lessons: Sequence[Lesson]) -> list[Step]:
        return _learnt(method, model, lessons)

    return Task(lesson, together, _key(method), lesson.seconds)


def _key(method: Any) -> Hashable | None:
    """Equal for streams that may learn in one call: not where time is part of the method, and not where it takes one stream only."""
    if not hasattr(method, "together") or getattr(method, "max_latency_ms", None) is not None:
        return None
    try:
        hash(method)
    except TypeError:  # one from elsewhere that is no value
        return None
    return ("lesson", type(method), method)


def _learnt(method: Any, model: Any, lessons: Sequence[Lesson]) -> list[Step]:
    reasons = [lesson.unfit(lesson.spoken) for lesson in lessons]
    fit = [lesson for lesson, reason in zip(lessons, reasons, strict=True) if not reason]
    steps = iter(_steps(method, model, fit) if fit else [])
    return [lesson.passed(reason) if reason else next(steps) for lesson, reason in zip(lessons, reasons, strict=True)]


def _steps(method: Any, model: Any, lessons: Sequence[Lesson]) -> list[Step]:
    try:
        found = _taken(method, model, [lesson.state for lesson in lessons], [lesson.heard(lesson.spoken) for lesson in lessons])
    except InputError as error:
        if len(lessons) > 1:
            raise  # somebody's, and the engine finds out whose
        return [lessons[0].passed(str(error))]
    return [lesson.bounded(lesson.state, Step(lesson.spoken, *step)) for lesson, step in zip(lessons, found, strict=True)]


def _taken(method: Any, model: Any, states: Sequence[Any], utterances: Sequence[Utterance]) -> Sequence[Any]:
    if len(states) == 1:
        return [method.step(model, states[0], utterances[0])]
    found: Sequence[Any] = method.together(model, states, utterances)
    return found


def seconds(opening: Opening, spoken: Spoken) -> float:
    """How long the sound of an utterance is."""
    return len(spoken.segment.samples) / opening.rate


def unfit(opening: Opening, spoken: Spoken) -> str:
    """Why an utterance teaches nothing, "" where it may."""
    if not spoken.segment.samples.any():
        return "no speech"
    if (odd := oddities.unfit(spoken.segment, opening.rate, opening.narrowband)) is not None:
        return odd
    length = (spoken.segment.end - spoken.segment.start) * 1000 / opening.rate
    return "too short" if length < opening.config.adaptation.min_speech_ms else ""


def bounded(source: Any, cap: float | None, before: Any, step: Step) -> Step:
    """A step with its distance to `source`; beyond `cap`, or with numbers that are not finite, it is not taken.

    The last good state stays then, and the unadapted text stands.
    """
    if step.state is before:
        return step
    if not finite(step.state, before):
        return Step(step.spoken, None, before, (Event("skipped", {"reason": "diverged"}),))
    distance = drift(step.state, source)
    if cap is None or distance <= cap:
        return replace(step, drift=distance)
    detail: dict[str, float | int | str] = {"reason": "drift", "drift": distance, "cap": cap}
    skipped = Event("skipped", {"reason": "drift"})  # what every utterance without a refinement has
    return Step(step.spoken, None, before, (skipped, Event("reset", detail)))
