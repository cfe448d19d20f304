from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta.rows import source
from asrlife.methods.online import Dsuta, Event, State, Suta, Unadapted, make, run
from asrlife.methods.online.auto import Auto
from asrlife.methods.online.bank import Bank
from asrlife.methods.online.trial import Candidate
from asrlife.models.handle import Emissions
from asrlife.text.hypothesis import Hypothesis

Stream = Callable[[int], list[Utterance]]
NOTHING = Hypothesis("", (), (), 0.0)
WORD = Hypothesis("ab", (1, 2), (), 0.0)
QUICK = Auto(lr=1e-3, steps=4, fast_steps=2, buffer=2, unheard=-9.0, confident=0.0)


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.kind for event in events]


def hissing(index: int, slope: float) -> Utterance:
    """Noise whose spectrum rises or falls, bursting."""
    rng = np.random.default_rng(index)
    spectrum = np.fft.rfft(rng.standard_normal(9600))
    tilted = np.fft.irfft(spectrum * (1 + np.arange(len(spectrum))) ** slope, 9600)
    bursts = 1 + 0.3 * np.sin(np.arange(9600) / 700)
    return Utterance(f"{index}", Waveform((0.1 * tilted / tilted.std() * bursts).astype(np.float32), 16_000))


def test_its_candidates_are_the_source_suta_and_dsuta(ctc: Any, stream: Stream) -> None:
    """Whichever it picks, the text is one of the three that the methods themselves give, as long as the sound stays."""
    utterances, method = stream(6), replace(QUICK, radius=99.0)
    alone = [hypothesis.text for _, hypothesis, _ in run(Suta(lr=1e-3, steps=4), ctc, utterances)]
    fast = [hypothesis.text for _, hypothesis, _ in run(Dsuta(lr=1e-3, fast_steps=2, buffer=2), ctc, utterances)]
    plain = [hypothesis.text for _, hypothesis, _ in run(Unadapted(), ctc, utterances)]
    found = list(run(method, ctc, utterances))
    by_name = {"alone": alone, "stream": fast, "source": plain}
    names = [next(str(event.detail["chosen"]) for event in events if event.kind == "stepped") for _, _, events in found]
    assert [hypothesis.text for _, hypothesis, _ in found] == [by_name[name][index] for index, name in enumerate(names)]
    assert len({*alone, *fast, *plain}) > len(plain)  # or nothing was shown


def test_its_slow_weights_are_those_of_dsuta(ctc: Any, stream: Stream) -> None:
    ours, theirs = run(replace(QUICK, radius=99.0), ctc, stream(6)), run(Dsuta(lr=1e-3, fast_steps=2, buffer=2), ctc, stream(6))
    list(ours), list(theirs)
    torch.testing.assert_close(ours.state["weights"], theirs.state["weights"], rtol=0, atol=1e-6)
    assert ours.state.record["count"] == theirs.state.record["count"] == 3


def chosen(method: Auto, ctc: Any, utterances: list[Utterance]) -> list[tuple[object, object]]:
    events = [event for _, _, found in run(method, ctc, utterances) for event in found if event.kind == "stepped"]
    return [(event.detail["chosen"], event.detail["steps"]) for event in events]


def test_a_stream_that_leads_is_believed_without_a_vote(ctc: Any, stream: Stream) -> None:
    assert chosen(replace(QUICK, lead=1e9), ctc, stream(4)) == [("stream", 2)] * 4


def test_a_stream_leads_where_its_weights_are_surer_before_any_step(ctc: Any, stream: Stream) -> None:
    method = replace(QUICK, lead=0.9)
    start = method.start(ctc)
    source, slow = (Candidate(Emissions(scale * torch.eye(5)[None], torch.tensor([5])), WORD) for scale in (2.0, 3.0))
    assert source.confidence < slow.confidence < 0
    sureness, led = method.standing(_met(method, start, stream(1)[0]), source, slow)
    assert sureness == (source.confidence, slow.confidence)
    assert led == (slow.confidence / source.confidence <= 0.9) is True
    assert not replace(method, lead=0.1).standing(_met(method, start, stream(1)[0]), source, slow)[1]
    assert not method.standing(_met(method, start, stream(1)[0]), slow, source)[1]
    assert not method.standing(_met(method, start, stream(1)[0]), source, replace(slow, hypothesis=NOTHING))[1]


def test_what_a_stream_was_sure_of_lately_counts_for_nine_tenths(ctc: Any, stream: Stream) -> None:
    met = _met(QUICK, QUICK.start(ctc), stream(1)[0])
    known = met.updated(bank=asdict(Bank.of(met.record["bank"]).judged((-1.0, -2.0))))
    here = Candidate(Emissions(torch.zeros(1, 3, 5), torch.tensor([3])), NOTHING)
    sureness, _ = QUICK.standing(known, here, here)
    assert sureness == pytest.approx((-0.9 - 0.1 * np.log(5), -1.8 - 0.1 * np.log(5)))


def test_no_step_where_the_source_is_sure(ctc: Any, stream: Stream) -> None:
    fold = run(replace(QUICK, confident=-99.0), ctc, stream(3))
    found = list(fold)
    assert [[event.detail.get("reason") for event in events] for _, _, events in found] == [["confident"]] * 3
    assert [hypothesis for _, hypothesis, _ in found] == [hypothesis for _, hypothesis, _ in run(Unadapted(), ctc, stream(3))]
    assert torch.equal(fold.state["weights"], source(ctc.module, fold.state.names))


def test_what_nobody_understands_yet_is_left_to_the_source_and_learnt_from(ctc: Any, stream: Stream) -> None:
    fold, heard = run(replace(QUICK, unheard=-1e-9), ctc, stream(3)), run(QUICK, ctc, stream(3))
    found, learnt = list(fold), list(heard)
    assert [events[0].detail.get("reason") for _, _, events in found] == ["unheard"] * 3
    assert [hypothesis for _, hypothesis, _ in found] == [hypothesis for _, hypothesis, _ in run(Unadapted(), ctc, stream(3))]
    assert [kinds(events)[1:] for _, _, events in found] == [kinds(events)[1:] for _, _, events in learnt]
    assert fold.state.record["count"] == 1 and torch.equal(fold.state["weights"], heard.state["weights"])


def test_never_a_step_on_silence(ctc: Any) -> None:
    silence = Utterance("s", Waveform(np.zeros(8000, np.float32), 16_000))
    _, state, events = QUICK.step(ctc, QUICK.start(ctc), silence)
    assert [(event.kind, event.detail["reason"]) for event in events] == [("skipped", "silent")]
    assert state.digest() == QUICK.start(ctc).digest()


def test_no_time_no_steps(ctc: Any, stream: Stream) -> None:
    method = replace(QUICK, max_latency_ms=1e-3)
    found = list(run(method, ctc, stream(2)))
    assert all("stepped" not in kinds(events) for _, _, events in found)
    assert [hypothesis for _, hypothesis, _ in found] == [hypothesis for _, hypothesis, _ in run(Unadapted(), ctc, stream(2))]
    generous = list(run(replace(QUICK, max_latency_ms=1e6), ctc, stream(2)))
    assert [hypothesis for _, hypothesis, _ in generous] == [hypothesis for _, hypothesis, _ in run(QUICK, ctc, stream(2))]


def test_convergence_spares_the_rest_of_the_steps(ctc: Any, stream: Stream) -> None:
    assert {steps for _, steps in chosen(replace(QUICK, lead=0.0, converged=1.0), ctc, stream(4))} == {2}


def test_drift_is_capped(ctc: Any, stream: Stream) -> None:
    method = replace(QUICK, lr=0.05, buffer=1, drift=0.02, radius=99.0)
    fold = run(method, ctc, stream(6))
    list(fold)
    own = source(ctc.module, fold.state.names)
    assert float((fold.state["weights"] - own).norm() / own.norm()) == pytest.approx(0.02, rel=1e-3)


def test_a_sound_that_comes_back_gets_its_own_weights_back(ctc: Any) -> None:
    method = replace(QUICK, alarm=8.0, buffer=1, carry=0.0)
    order = [0.0] * 12 + [1.0] * 12 + [0.0] * 2
    fold = run(method, ctc, [hissing(index, slope) for index, slope in enumerate(order)])
    found = [
        (index, event.detail["reason"], event.detail["entry"])
        for index, (_, _, events) in enumerate(fold)
        for event in events
        if event.kind == "retrieved"
    ]
    assert [reason for _, reason, _ in found] == ["new sound", "known sound"]
    assert 12 <= found[0][0] < 18
    assert found[1] == (24, "known sound", 0)
    assert len(Bank.of(fold.state.record["bank"]).places) == 2


def test_another_state_of_one_noise_shares_its_weights(ctc: Any) -> None:
    method = replace(QUICK, alarm=8.0, buffer=1, carry=1e9)
    fold = run(method, ctc, [hissing(index, slope) for index, slope in enumerate(([0.0] * 12 + [1.0] * 8) * 2)])
    assert not any("retrieved" in kinds(events) for _, _, events in fold)
    bank = Bank.of(fold.state.record["bank"])
    assert [place.weights for place in bank.places] == [0, 0]
    assert fold.state.record["count"] > 32 and not any("." in name for name in fold.state.vectors)  # every utterance has taught it


def test_weights_that_no_place_has_any_more_are_forgotten(ctc: Any) -> None:
    method = replace(QUICK, alarm=8.0, buffer=1, carry=0.0, places=2)
    fold = run(method, ctc, [hissing(index, slope) for index, slope in enumerate([0.0] * 12 + [1.0] * 12 + [-1.0] * 12)])
    list(fold)
    bank = Bank.of(fold.state.record["bank"])
    assert len(bank.places) == 2 and {place.weights for place in bank.places} == {0, 1}
    other = 1 - bank.here.weights
    assert {name.partition(".")[0] for name in fold.state.vectors if "." in name} == {str(other)}


def test_a_new_sound_starts_from_the_source(ctc: Any) -> None:
    method = replace(QUICK, alarm=8.0, buffer=1, carry=0.0)
    state = method.start(ctc)
    for index, slope in enumerate([0.0] * 12 + [1.0] * 12):
        before = state
        _, state, events = method.step(ctc, state, hissing(index, slope))
        if "retrieved" in kinds(events):
            break
    assert before.record["count"] > 0 and not torch.equal(before["weights"], method.start(ctc)["weights"])
    assert torch.equal(state["0.weights"], before["weights"])
    slow = [event.detail["count"] for event in events if event.kind == "slow_committed"]
    assert slow == [1] and state.record["count"] == 1
    moved = (state["weights"] - source(ctc.module, state.names)).abs().max()
    assert float(moved) <= method.lr * 1.001  # one step of Adam away


def two_sounds(method: Auto, ctc: Any) -> State:
    """A state that has heard two sounds, each with weights of its own, and that is in the second."""
    state = method.start(ctc)
    for index, slope in enumerate([0.0] * 12 + [1.0] * 12):
        _, state, _ = method.step(ctc, state, hissing(index, slope))
    assert {place.weights for place in Bank.of(state.record["bank"]).places} == {0, 1}
    return state


def test_a_buffer_stays_with_the_weights_at_which_it_was_taken(ctc: Any) -> None:
    method = replace(QUICK, alarm=8.0, buffer=3, carry=0.0)
    state, own = two_sounds(method, ctc), source(ctc.module, method.start(ctc).names)
    begun = state.updated({"slope": torch.ones_like(own)}, waiting=2)
    moved, events = method._placed(ctc, _heard(begun, hissing(40, 0.0)), own)
    mine = Bank.of(begun.record["bank"]).here.weights
    assert kinds(events) == ["retrieved"]
    assert torch.equal(moved["weights"], begun[f"{1 - mine}.weights"]) and torch.equal(moved[f"{mine}.weights"], begun["weights"])
    assert moved.record[f"{mine}.waiting"] == 2 and torch.equal(moved[f"{mine}.slope"], begun["slope"])
    assert {name.partition(".")[0] for name in moved.vectors if "." in name} == {str(mine)}


@pytest.mark.parametrize(("stay", "at_hand", "shared"), [(3, 0.0, True), (3, 2.0, False), (4, 0.0, False)])
def test_sounds_that_take_turns_too_fast_to_learn_share_weights_that_suit_both(
    ctc: Any, monkeypatch: pytest.MonkeyPatch, stay: int, at_hand: float, shared: bool
) -> None:
    method = replace(QUICK, alarm=8.0, buffer=3, carry=0.0)
    state, own = two_sounds(method, ctc), source(ctc.module, method.start(ctc).names)
    bank = Bank.of(state.record["bank"])
    monkeypatch.setattr(Auto, "_losses", lambda *given: torch.tensor([at_hand, 1.0]))
    begun = state.updated(bank=asdict(replace(bank, arrived=bank.clock + 1 - stay)))
    moved, events = method._placed(ctc, _heard(begun, hissing(40, 0.0)), own)
    mine = bank.here.weights
    assert torch.equal(moved["weights"], state["weights"]) is shared
    assert kinds(events) == ([] if shared else ["retrieved"])
    assert [place.weights for place in Bank.of(moved.record["bank"]).places] == ([mine, mine] if shared else [1 - mine, mine])
    assert {name.partition(".")[0] for name in moved.vectors if "." in name} == (set() if shared else {str(mine)})


def test_weights_put_away_come_back_bit_for_bit(ctc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = replace(QUICK, alarm=8.0, buffer=1, carry=0.0)
    # whichever weights are at hand, those of the sound suit it better
    monkeypatch.setattr(Auto, "_losses", lambda *given: torch.tensor([1.0, 0.0]))
    state, kept = method.start(ctc), None
    for index, slope in enumerate([0.0] * 12 + [1.0] * 12):
        before = state
        _, state, events = method.step(ctc, state, hissing(index, slope))
        if "retrieved" in kinds(events):
            kept = before["weights"]
    assert kept is not None
    assert torch.equal(state["0.weights"], kept)
    back, events = method._placed(ctc, _heard(state, hissing(30, 0.0)), source(ctc.module, state.names))
    assert kinds(events) == ["retrieved"]
    assert torch.equal(back["weights"], kept)
    assert State.from_bytes(back.to_bytes(), back.base).digest() == back.digest()


def test_weights_that_fail_where_the_source_hears_go_back(
    ctc: Any, stream: Stream, deaf: Callable[[tuple[str, ...]], torch.Tensor]
) -> None:
    start = QUICK.start(ctc)
    lost = start.updated({"weights": deaf(start.names)})
    hypothesis, state, events = QUICK.step(ctc, lost, stream(1)[0])
    assert kinds(events)[-1] == "reset"
    assert events[-1].detail["reason"] == "collapsed"
    assert torch.equal(state["weights"], start["weights"])
    assert hypothesis.text


def test_a_stream_that_leads_and_fails_goes_back_too(ctc: Any, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would lead, fail and learn nothing for ever."""
    method, true, calls = replace(QUICK, lead=1e9), type(ctc).emissions, iter(range(9))
    start, plain = method.start(ctc), next(iter(run(Unadapted(), ctc, stream(1))))[1]

    def emissions(self: Any, *given: Any, **named: Any) -> Any:
        found = true(self, *given, **named)
        return replace(found, logits=found.logits * torch.nan) if next(calls) == 3 else found  # after both fast steps

    monkeypatch.setattr(type(ctc), "emissions", emissions)
    moved = start.updated({"weights": start["weights"] + 1e-4}, count=3, waiting=1)
    hypothesis, state, events = method.step(ctc, moved, stream(1)[0])
    assert [(event.kind, event.detail["reason"]) for event in events] == [("skipped", "diverged"), ("reset", "collapsed")]
    assert torch.equal(state["weights"], start["weights"]) and (state.record["count"], state.record["waiting"]) == (0, 0)
    assert hypothesis.text == plain.text


def test_settings_come_from_the_card_and_are_checked(ctc: Any) -> None:
    assert make("auto", {"max_latency_ms": "200", "steps": "3"}).steps == 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="drift"):
        make("auto", {"drift": "-1"})


def _met(method: Auto, state: State, utterance: Utterance) -> State:
    """In the place of the utterance's sound."""
    return method._placed(object(), _heard(state, utterance), state["weights"])[0]  # type: ignore[arg-type]


def _heard(state: State, utterance: Utterance) -> Any:
    from asrlife.methods.online.descent import Heard

    return Heard(state, utterance, utterance.waveform(16_000))
