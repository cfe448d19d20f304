"""What every registered method keeps to."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.methods.online import METHODS, Method, State, carried, make, run

Stream = Callable[[int], list[Utterance]]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, ctc: Any) -> Method:
    return make(request.param, {"lr": "1e-3"} if request.param != "none" else {}, ctc)


def flags(module: torch.nn.Module) -> list[Any]:
    parameters = [(p.requires_grad, p.grad is None, p.data_ptr()) for p in module.parameters()]
    return [*parameters, *(part.training for part in module.modules())]


def test_the_model_is_as_it_was(method: Method, ctc: Any, stream: Stream) -> None:
    before, flagged, bytes_of_rng = fingerprint(ctc.module), flags(ctc.module), torch.get_rng_state()
    numpy_state, python_state = np.random.get_state()[1].tobytes(), random.getstate()  # type: ignore[union-attr]
    for _ in run(method, ctc, stream(6)):
        assert fingerprint(ctc.module) == before
    assert flags(ctc.module) == flagged
    assert torch.equal(torch.get_rng_state(), bytes_of_rng)
    assert np.random.get_state()[1].tobytes() == numpy_state  # type: ignore[union-attr]
    assert random.getstate() == python_state


def test_the_model_is_as_it_was_after_a_failure(method: Method, ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    before, flagged, true = fingerprint(ctc.module), flags(ctc.module), type(ctc).emissions
    calls = 0

    def failing(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > (0 if method.name == "none" else 2):
            raise RuntimeError("out of memory")
        return true(self, *arguments)

    monkeypatch.setattr(type(ctc), "emissions", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        method.step(ctc, method.start(ctc), stream(1)[0])
    assert fingerprint(ctc.module) == before
    assert flags(ctc.module) == flagged


def test_a_step_leaves_its_state_alone(method: Method, ctc: Any, stream: Stream) -> None:
    state = method.start(ctc)
    for utterance in stream(11):
        digest = state.digest()
        _, new, _ = method.step(ctc, state, utterance)
        assert state.digest() == digest
        state = new


def test_streams_do_not_meet(method: Method, ctc: Any, stream: Stream) -> None:
    one, two = stream(7), stream(14)[7:]
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
    whole = run(method, ctc, stream(12))
    expected = [hypothesis for _, hypothesis, _ in whole]
    first = run(method, ctc, stream(12)[:7])
    found = [hypothesis for _, hypothesis, _ in first]
    second = run(method, ctc, stream(12)[7:], State.from_bytes(first.state.to_bytes(), ctc.fingerprint()))
    found += [hypothesis for _, hypothesis, _ in second]
    assert found == expected
    assert second.state.digest() == whole.state.digest()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_mode_of_the_caller_does_not_matter(method: Method, ctc: Any, stream: Stream, mode: Any) -> None:
    with mode():
        fold = run(method, ctc, stream(6))
        inside = [hypothesis for _, hypothesis, _ in fold]
    again = run(method, ctc, stream(6))
    assert inside == [hypothesis for _, hypothesis, _ in again]
    assert fold.state.digest() == again.state.digest()
    assert not carried(fold.state).is_inference()


def test_nothing_grows(method: Method, ctc: Any) -> None:
    audio = np.random.default_rng(0).standard_normal(1700).astype(np.float32)
    fold = run(method, ctc, (Utterance(str(index), Waveform(audio, 16_000)) for index in range(20)))
    sizes, counts = [], []
    for index, _ in enumerate(fold):
        sizes.append(len(fold.state.to_bytes()))
        if index in (9, 19):
            gc.collect()
            counts.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
    assert max(sizes[10:]) <= max(sizes[:10]) + 64  # a digit more in the counters
    assert counts[1] <= counts[0]


@pytest.mark.parametrize(("samples", "reason"), [(np.zeros(8000), "silent"), (np.full(800, 0.1), "short"), (np.zeros(0), "short")])
def test_nothing_is_learnt_from_nothing(method: Method, ctc: Any, samples: np.ndarray, reason: str) -> None:
    state = method.start(ctc)
    waveform = Waveform(samples.astype(np.float32), 16_000)
    hypothesis, new, events = method.step(ctc, state, Utterance("u", waveform))
    assert new.digest() == state.digest()
    assert hypothesis == ctc.decode(ctc.prepare([waveform]))[0]
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
