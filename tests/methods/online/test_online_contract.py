"""What every registered method keeps to."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.methods.online import METHODS, Event, Method, State, run
from asrlife.methods.online.method import Step

Stream = Callable[[int], list[Utterance]]
Quick = Callable[..., Method]
TAUGHT = ("none", "retrieval", "pretext")  # do not learn from what they hear
STREAMING = ("suta", "dsuta", "auto")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, quick: Quick, ctc: Any) -> Method:
    return quick(request.param, ctc)


def flags(module: torch.nn.Module) -> list[Any]:
    parameters = [(p.requires_grad, p.grad is None, p.data_ptr()) for p in module.parameters()]
    return [*parameters, *(part.training for part in module.modules())]


def test_the_model_is_as_it_was(method: Method, ctc: Any, stream: Stream) -> None:
    before, flagged, bytes_of_rng = fingerprint(ctc.module), flags(ctc.module), torch.get_rng_state()
    numpy_state, python_state = np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[union-attr]
    state = method.start(ctc)
    for utterance in stream(4):
        _, state, _ = method.step(ctc, state, utterance)
        assert fingerprint(ctc.module) == before
    method.together(ctc, [state] * 3, stream(3))
    assert fingerprint(ctc.module) == before
    assert flags(ctc.module) == flagged
    assert torch.equal(torch.get_rng_state(), bytes_of_rng)
    assert np.random.get_state()[1].tobytes() == numpy_state  # type: ignore[union-attr]
    assert random.getstate() == python_state


def test_the_mode_and_the_flags_of_the_model_come_back(method: Method, ctc: Any, stream: Stream) -> None:
    """Also where they differ from part to part."""
    model = replace(ctc, module=deepcopy(ctc.module).train())
    model.module.lm_head.eval()
    for place, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(bool(place % 2))
    flagged, before = flags(model.module), fingerprint(model.module)
    heard = [hypothesis for _, hypothesis, _ in run(method, model, stream(2))]
    assert flags(model.module) == flagged
    assert fingerprint(model.module) == before
    if method.name != "none":
        assert heard == [hypothesis for _, hypothesis, _ in run(method, ctc, stream(2))], "it learns in evaluation mode"


def test_the_model_is_as_it_was_after_a_failure(method: Method, ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    before, flagged, true = fingerprint(ctc.module), flags(ctc.module), type(ctc).emissions
    calls = 0

    def failing(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > (0 if method.name == "none" else 1):
            raise RuntimeError("out of memory")
        return true(self, *given, **named)

    monkeypatch.setattr(type(ctc), "emissions", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        method.step(ctc, method.start(ctc), stream(1)[0])
    assert fingerprint(ctc.module) == before
    assert flags(ctc.module) == flagged


def test_a_step_leaves_its_state_alone(method: Method, ctc: Any, stream: Stream) -> None:
    state = method.start(ctc)
    for utterance in stream(5):
        digest = state.digest()
        _, new, _ = method.step(ctc, state, utterance)
        method.together(ctc, [state, state], [utterance, utterance])
        assert state.digest() == digest
        state = new


def test_a_step_made_again_is_the_same_step(method: Method, ctc: Any, stream: Stream) -> None:
    fold = run(method, ctc, stream(5))
    list(fold)
    one, other = (method.step(ctc, fold.state, stream(6)[5]) for _ in range(2))
    assert (one[0], one[2]) == (other[0], other[2])
    assert one[1].digest() == other[1].digest()


def test_streams_do_not_meet(method: Method, ctc: Any, stream: Stream) -> None:
    one, two = stream(4), stream(8)[4:]
    fold = run(method, ctc, one)
    alone = [(hypothesis, events) for _, hypothesis, events in fold]
    first, second = run(method, ctc, one), run(method, ctc, two)
    together = []
    for _ in one:
        together.append(next(first)[1:])
        next(second)
    assert together == alone
    assert first.state.digest() == fold.state.digest()


def test_a_stream_goes_on_from_its_bytes(method: Method, ctc: Any, stream: Stream) -> None:
    whole = run(method, ctc, stream(7))
    expected = [hypothesis for _, hypothesis, _ in whole]
    first = run(method, ctc, stream(7)[:3])
    found = [hypothesis for _, hypothesis, _ in first]
    second = run(method, ctc, stream(7)[3:], State.from_bytes(first.state.to_bytes(), ctc.fingerprint()))
    found += [hypothesis for _, hypothesis, _ in second]
    assert found == expected
    assert second.state.digest() == whole.state.digest()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_mode_of_the_caller_does_not_matter(method: Method, ctc: Any, stream: Stream, mode: Any) -> None:
    with mode():
        fold = run(method, ctc, stream(3))
        inside = [hypothesis for _, hypothesis, _ in fold]
    again = run(method, ctc, stream(3))
    assert inside == [hypothesis for _, hypothesis, _ in again]
    assert fold.state.digest() == again.state.digest()
    assert not any(vector.is_inference() or vector.requires_grad for vector in fold.state.vectors.values())


@pytest.mark.parametrize(("samples", "reason"), [(np.zeros(8000), "silent"), (np.full(800, 0.1), "short"), (np.zeros(0), "short")])
def test_nothing_is_learnt_from_nothing(method: Method, ctc: Any, samples: np.ndarray, reason: str) -> None:
    state = method.start(ctc)
    waveform = Waveform(samples.astype(np.float32), 16_000)
    hypothesis, new, events = method.step(ctc, state, Utterance("u", waveform))
    assert new.digest() == state.digest()
    plain = ctc.decode(ctc.prepare([waveform]))[0]
    # weights handed in at the source's values are multiplied in another order than the source's own
    assert (hypothesis.text, hypothesis.tokens, hypothesis.score) == (plain.text, plain.tokens, pytest.approx(plain.score, abs=1e-5))
    if method.name != "none":
        assert [(event.kind, event.detail["reason"]) for event in events] == [("skipped", reason)]


def test_a_file_that_cannot_be_read_is_passed_over(method: Method, ctc: Any, stream: Stream, tmp_path: Any) -> None:
    good = stream(2)
    fold = run(method, ctc, [good[0], Utterance("bad", tmp_path / "missing.wav"), good[1]])
    next(fold)
    kept = fold.state
    with pytest.raises(InputError, match=r"missing\.wav"):
        next(fold)
    assert fold.state is kept
    assert next(fold)[0].id == good[1].id
    with pytest.raises(StopIteration):
        next(fold)


def noise(count: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(5).standard_normal(count)


ODD: dict[str, np.ndarray] = {
    "50 ms": noise(800),
    "100 ms": noise(1600),
    "silent": np.zeros(8000),
    "nearly silent": 1e-3 * noise(8000),
    "half silent": np.concatenate([np.zeros(6000), noise(3000)]),
    "clipped": np.clip(100 * noise(8000), -1, 1),
    "one click": np.eye(1, 8000, 4000)[0],
    "a constant": np.full(8000, 0.5),  # no variance anywhere
    "offset": noise(8000) + 10,
    "very loud": 1e11 * noise(8000),
}


def assert_defined(step: Step, fingerprint: str) -> None:
    """Finite, and it can be written."""
    hypothesis, state, events = step
    assert math.isfinite(hypothesis.score)
    assert all(math.isfinite(value) for word in hypothesis.words for value in (word.start, word.end, word.confidence))
    assert State.from_bytes(state.to_bytes(), fingerprint).digest() == state.digest()
    assert all(bool(torch.isfinite(vector).all()) for vector in state.vectors.values())
    assert all(math.isfinite(value) for event in events for value in event.detail.values() if isinstance(value, float))


@pytest.mark.parametrize(("name", "shape"), [*((name, "group") for name in METHODS), *((name, "layer") for name in STREAMING)])
def test_odd_sound_gives_a_defined_result_and_an_event(name: str, shape: str, quick: Quick, network: Callable[[str], Any]) -> None:
    model = network(shape)
    method = quick(name, model)
    state = method.start(model)
    for label, samples in ODD.items():
        step = method.step(model, state, Utterance(label, Waveform(samples.astype(np.float32), 16_000)))
        assert_defined(step, model.fingerprint())
        assert len(step[2]) > 0 or name == "none", label
        state = step[1]


@pytest.mark.parametrize("name", ["none", *STREAMING])
def test_odd_sound_and_whisper(name: str, quick: Quick, network: Callable[[str], Any]) -> None:
    model = network("whisper")
    method = quick(name, model)
    utterances = [Utterance(label, Waveform(samples.astype(np.float32), 16_000)) for label, samples in ODD.items()]
    steps = method.together(model, [method.start(model)] * len(ODD), utterances)
    for step in steps:
        assert_defined(step, model.fingerprint())
        assert len(step[2]) > 0 or name == "none"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", *STREAMING])
def test_a_minute_of_sound(name: str, quick: Quick, network: Callable[[str], Any]) -> None:
    from asrlife.audio.speak import speak

    model = network("embedded:ctc")
    method = quick(name, model, steps=1, fast_steps=1, scope="norms")
    sentence = speak("turn on the lights in the kitchen please").resampled(16_000).samples
    minute = Waveform(np.resize(sentence, 60 * 16_000), 16_000)
    step = method.step(model, method.start(model), Utterance("minute", minute))
    assert_defined(step, model.fingerprint())
    assert step[0].text.split().count("lights") > 10
    assert len(step[2]) > 0 or name == "none"


def reasons(events: tuple[Event, ...]) -> list[tuple[str, str]]:
    return [(event.kind, str(event.detail.get("reason"))) for event in events]


def test_only_blanks_are_no_lesson(method: Method, ctc: Any, stream: Stream) -> None:
    deaf = replace(ctc, module=deepcopy(ctc.module))
    deaf.module.lm_head.bias.data[ctc.blank] = 1e4
    start = method.start(deaf)
    step = method.step(deaf, start, stream(1)[0])
    assert_defined(step, deaf.fingerprint())
    assert step[0].text == ""
    if method.name not in TAUGHT:
        assert reasons(step[2])[0][0] == "skipped"
        for key in start.vectors.keys() & {"weights", "first", "second"}:
            assert torch.equal(step[1][key], start[key])


@pytest.mark.parametrize("which", ["every", "last"])
def test_scores_that_are_not_finite_teach_nothing(
    method: Method, ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """`last`: they are finite until the weights have moved."""
    fold = run(method, ctc, stream(3))
    list(fold)
    true = type(ctc).emissions

    def emissions(self: Any, batch: Any, path: Any = None, weights: Any = None, *given: Any, **named: Any) -> Any:
        found = true(self, batch, path, weights, *given, **named)
        moved = which == "every" or weights is not None and not all(_own(self, name, leaf) for name, leaf in weights.items())
        return replace(found, logits=found.logits * torch.nan) if moved else found

    monkeypatch.setattr(type(ctc), "emissions", emissions)
    step = method.step(ctc, fold.state if which == "every" else method.start(ctc), stream(4)[3])
    monkeypatch.undo()
    assert_defined(step, ctc.fingerprint())
    if method.name != "none":
        kinds = {event.kind for event in step[2]}
        assert "skipped" in kinds or step[0].text in {event.detail.get("before") for event in step[2]}
        assert which == "last" or (step[0].text == "" and "skipped" in kinds)


def _own(model: Any, name: str, leaf: torch.Tensor) -> bool:
    return all(torch.equal(row, model.module.get_parameter(name)) for row in leaf)
