from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asrlife.data.utterance import Utterance
from asrlife.methods.online import Dsuta, Event, State, Unadapted, run
from asrlife.methods.online.dsuta import SlowStep
from asrlife.methods.online.losses import suta

Stream = Callable[[int], list[Utterance]]


class Naive:
    """Two whole models with an optimiser each, as published; `heard` is what the fast one says."""

    def __init__(self, model: Any, method: Dsuta) -> None:
        self.model, self.method, self.losses = replace(model, module=deepcopy(model.module)), method, [0.0]
        self.model.module.requires_grad_(False)
        self.tuned = [self.model.module.get_parameter(name).requires_grad_(True) for name in model.select(method.scope)]
        self.adam = torch.optim.AdamW(self.tuned, lr=method.lr, weight_decay=0)

    def heard(self, utterances: Sequence[Utterance]) -> list[str]:
        slow, texts, buffer = self._kept(), [], []
        for utterance in utterances:
            self._put(slow)
            batch = self.model.prepare([utterance.waveform()])
            for _ in range(self.method.fast_steps):
                self._step([batch])
            texts.append(self.model.decode(batch)[0].text)
            buffer.append(batch)
            if len(buffer) == self.method.buffer:
                self._put(slow)
                self.losses.append(self._step(buffer))
                slow, buffer = self._kept(), []
        self._put(slow)
        return texts

    def weights(self) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tuned])

    def _kept(self) -> Any:
        return deepcopy((self.model.module.state_dict(), self.adam.state_dict()))

    def _put(self, kept: Any) -> None:
        weights, moments = deepcopy(kept)
        self.model.module.load_state_dict(weights)
        self.adam.load_state_dict(moments)

    def _step(self, batches: Sequence[Any]) -> float:
        self.model.module.zero_grad()
        total = 0.0
        for batch in batches:
            emissions = self.model.emissions(batch)
            loss = suta(emissions.logits, emissions.lengths, self.model.blank).total.sum() / len(batches)
            loss.backward()
            total += loss.item()
        self.adam.step()
        return total


@pytest.mark.parametrize("method", [Dsuta(lr=1e-3, fast_steps=2, buffer=3), Dsuta(lr=1e-3, fast_steps=0, buffer=1)])
def test_as_two_models_with_an_optimiser_each(ctc: Any, stream: Stream, method: Dsuta) -> None:
    """No fast steps and a buffer of one are continual SUTA, heard one update earlier."""
    naive, fold = Naive(ctc, method), run(method, ctc, stream(8))
    found = list(fold)
    assert [hypothesis.text for _, hypothesis, _ in found] == naive.heard(stream(8))
    torch.testing.assert_close(fold.state.weights, naive.weights(), rtol=0, atol=2e-6)
    committed = [event.detail["loss"] for _, _, events in found for event in events if event.kind == "slow_committed"]
    assert committed == pytest.approx(naive.losses[1:], abs=1e-6)
    assert fold.state.count == len(committed) == 8 // method.buffer


def test_neither_fast_nor_slow_steps_are_the_source(ctc: Any, stream: Stream) -> None:
    fold = run(Dsuta(lr=1.0, fast_steps=0, buffer=10**6), ctc, stream(6))
    source = run(Unadapted(), ctc, stream(6))
    assert [hypothesis for _, hypothesis, _ in fold] == [hypothesis for _, hypothesis, _ in source]


def test_a_batched_slow_step_is_the_sum_of_single_ones(ctc: Any, stream: Stream) -> None:
    single = run(Dsuta(lr=1e-3, fast_steps=0), ctc, stream(10))
    batched = run(Dsuta(lr=1e-3, fast_steps=0, slow="batched"), ctc, stream(10))
    assert [found[1].text for found in single] == [found[1].text for found in batched]
    source = Dsuta().start(ctc).weights
    assert (single.state.weights - source).abs().max() > 1.9e-3
    torch.testing.assert_close(single.state.weights, batched.state.weights, rtol=0, atol=2e-5)


def scripted(monkeypatch: pytest.MonkeyPatch, gap: Callable[[int], float]) -> list[int]:
    """LII of the utterance that is the n-th to be measured alone or the n-th of a stream in a buffer; returns the sizes asked for."""
    asked: list[int] = []
    seen = 0

    def gaps(self: SlowStep, domain: Tensor, waveforms: Sequence[Any]) -> list[float]:
        asked.append(len(waveforms))
        nonlocal seen
        seen += 1
        return [gap(seen)] * len(waveforms)

    monkeypatch.setattr(SlowStep, "gaps", gaps)
    return asked


def resets(method: Dsuta, model: Any, utterances: Sequence[Utterance]) -> tuple[list[int], State, list[Event]]:
    fold = run(method, model, utterances)
    events = [event for _, _, events in fold for event in events]
    return [int(event.detail["utterance"]) for event in events if event.kind == "reset"], fold.state, events


QUICK = Dsuta(lr=1e-3, fast_steps=0, buffer=2, reset="dynamic", window=8, patience=2)


def test_the_second_failing_buffer_resets_and_no_sooner(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    # window 8: snapshot after 4; gaps of 5, 6, 7; judged from the buffer that ends at 10
    script = iter([-1.0, -1.1, -0.9, *[9.0] * 2, -1.0, -1.1, -0.9, *[9.0] * 2])
    asked = scripted(monkeypatch, lambda _: next(script))
    found, state, events = resets(QUICK, ctc, stream(24))
    assert found == [12, 24]  # window + patience * buffer = 12 is the least distance
    assert asked == [1, 1, 1, 2, 2] * 2
    assert torch.equal(state.weights, QUICK.start(ctc).weights)
    assert (state.count, state.seen, state.buffer, state.domain, state.watch.age) == (0, 24, (), None, 0)
    assert not state.first.any() and not state.second.any()
    # a reset takes the place of a slow step, a suspicious buffer does not
    assert [event.kind for event in events if event.kind != "stepped"] == ([*["slow_committed"] * 5, "reset"]) * 2
    reset = next(event for event in events if event.kind == "reset")
    assert reset.detail["reason"] == "shift"
    assert float(reset.detail["deviation"]) > 2


def test_statistics_are_rebuilt_after_a_reset(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([-1.0, -1.1, -0.9, 9.0, 9.0, 9.0, 9.1, 8.9, 9.0, 9.0])
    scripted(monkeypatch, lambda _: next(script))
    found, state, _ = resets(QUICK, ctc, stream(24))
    assert found == [12]
    assert state.watch.mean == pytest.approx(9.0)
    assert state.watch.spread == pytest.approx(0.1)
    assert state.watch.fails == 0


def test_one_calm_buffer_forgives_a_failure(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([-1.0, -1.1, -0.9, 9.0, -1.0, 9.0, -1.0, 9.0, 9.0])
    scripted(monkeypatch, lambda _: next(script))
    assert resets(QUICK, ctc, stream(20))[0] == [20]


def test_easier_sound_is_no_shift(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([-1.0, -1.1, -0.9, *[-50.0] * 8])
    scripted(monkeypatch, lambda _: next(script))
    assert resets(QUICK, ctc, stream(24))[0] == []


def test_gaps_that_never_differ_divide_by_no_zero(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda _: 0.25)
    assert resets(QUICK, ctc, stream(16))[0] == []


def test_the_snapshot_stays_while_the_slow_weights_go_on(ctc: Any, stream: Stream) -> None:
    fold = run(QUICK, ctc, stream(8))
    states = [fold.state for _ in fold]
    assert states[2].domain is None
    domain = states[3].domain
    assert domain is not None and torch.equal(domain, states[3].weights)
    assert all(state.domain is domain for state in states[3:])
    assert not torch.equal(domain, states[-1].weights)
    assert [len(state.watch.gaps) for state in states] == [0, 0, 0, 0, 1, 2, 3, 0]
    assert states[-1].watch.ready


def test_a_fixed_reset_comes_with_the_first_full_buffer_behind_it(ctc: Any, stream: Stream) -> None:
    assert resets(Dsuta(fast_steps=0, buffer=2, reset="fixed", every=5), ctc, stream(16))[0] == [6, 10, 16]


def deafened(ctc: Any) -> Tensor:
    """Weights under which every frame is a blank: the last norm gives one vector, along the blank's row of the head."""
    row = ctc.module.lm_head.weight.detach()[ctc.blank]
    start = Dsuta().start(ctc)
    sizes = [ctc.module.get_parameter(name).numel() for name in start.names]
    parts = dict(zip(start.names, start.weights.clone().split(sizes), strict=True))
    parts["wav2vec2.encoder.layer_norm.weight"] = torch.zeros_like(row)
    parts["wav2vec2.encoder.layer_norm.bias"] = row
    return torch.cat([parts[name] for name in start.names])


def test_slow_weights_that_went_deaf_go_back_to_the_source(ctc: Any, stream: Stream) -> None:
    method = Dsuta(lr=1e-3, buffer=2)
    lost = replace(method.start(ctc), weights=deafened(ctc))
    fold = run(method, ctc, stream(4), lost)
    found = list(fold)
    assert [hypothesis.text for _, hypothesis, _ in found[:2]] == ["", ""]
    assert [(event.kind, event.detail["reason"]) for event in found[1][2]] == [("skipped", "no speech"), ("reset", "collapsed")]
    assert all(hypothesis.text for _, hypothesis, _ in found[2:])


def test_a_stream_without_speech_changes_nothing(ctc: Any, stream: Stream) -> None:
    deaf = replace(ctc, module=deepcopy(ctc.module))
    deaf.module.lm_head.bias.data[ctc.blank] = 1e4
    method = Dsuta(lr=1e-3, buffer=2)
    fold = run(method, deaf, stream(2))
    events = [(event.kind, event.detail["reason"], event.detail["stage"]) for _, _, events in fold for event in events]
    assert events == [("skipped", "no speech", "fast")] * 2 + [("skipped", "no speech", "slow")]
    assert torch.equal(fold.state.weights, method.start(deaf).weights)
    assert fold.state.count == 0


def test_what_diverges_is_not_learnt_from(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    method, true = Dsuta(lr=1e-3), type(ctc).emissions
    fold = run(method, ctc, stream(3))
    list(fold)
    monkeypatch.setattr(type(ctc), "emissions", lambda *given: replace(found := true(*given), logits=found.logits * torch.nan))
    _, state, events = method.step(ctc, fold.state, stream(1)[0])
    assert state is fold.state
    assert [(event.kind, event.detail["reason"]) for event in events] == [("skipped", "diverged")]


def test_a_slow_step_that_diverges_is_dropped(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowStep, "_accumulated", lambda self, buffer: (torch.tensor(torch.nan), True))
    fold = run(Dsuta(lr=1e-3, fast_steps=0, buffer=2), ctc, stream(2))
    events = [event for _, _, events in fold for event in events]
    assert events[-1] == Event("skipped", {"reason": "diverged", "stage": "slow"})
    assert (fold.state.count, fold.state.buffer) == (0, ())
