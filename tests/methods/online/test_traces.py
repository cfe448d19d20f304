"""Streams that the published code went through, loss by loss (CPU; a model of 104 k parameters)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.data.utterance import Utterance
from asrlife.methods.online import Dsuta, Event, Method, Suta, Unadapted, run
from asrlife.methods.online.descent import Descent
from asrlife.methods.online.dsuta import SlowStep


def trace(reference: Path, name: str) -> Any:
    return json.loads((reference / f"tiny_{name}.json").read_text())


class Course:
    """Runs a method over a stream and keeps the losses of every step that an utterance took."""

    def __init__(self, method: Method, model: Any, utterances: list[Utterance], patch: pytest.MonkeyPatch) -> None:
        self.losses: list[list[list[float]]] = []
        self.texts: list[str] = []
        self.events: list[tuple[Event, ...]] = []
        true = Descent.losses

        def losses(this: Descent, recogniser: Any, emissions: Any) -> Any:
            found = true(this, recogniser, emissions)
            if torch.is_grad_enabled():
                self.losses[-1].append(torch.cat([found.entropy, found.confusion, found.blend]).tolist())
            return found

        patch.setattr(Descent, "losses", losses)
        fold = run(method, model, utterances)
        for _ in utterances:
            self.losses.append([])
            _, hypothesis, events = next(fold)
            self.texts.append(hypothesis.text)
            self.events.append(events)
        self.state = fold.state

    def check(self, kept: Any, places: list[int]) -> None:
        """Transcripts equal, and the losses of all fast steps within 1e-4."""
        assert self.texts == [kept["transcriptions"][place][1].lower() for place in places]
        count = kept["steps"]
        expected = [kept["trace"]["steps"][count * place : count * (place + 1)] for place in places]
        named = [[[step["e_loss"], step["c_loss"], step["total_loss"]] for step in steps] for steps in expected]
        np.testing.assert_allclose([found[:count] for found in self.losses], named, rtol=0, atol=1e-4)


def test_the_source(reference: Path, tiny: Any, recorded: list[Utterance]) -> None:
    texts = [hypothesis.text for _, hypothesis, _ in run(Unadapted(), tiny, recorded)]
    assert texts == [text.lower() for _, text in trace(reference, "none")["transcriptions"]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset", "every"), [("suta10_lr2e-4_dedup1", "clean", 8), ("suta10_lr2e-4_dedup0", "suta-paper", 15)])
def test_suta(
    reference: Path, tiny: Any, recorded: list[Utterance], monkeypatch: pytest.MonkeyPatch, name: str, preset: Any, every: int
) -> None:
    places = list(range(0, len(recorded), every))  # episodic: any part of the stream will do
    course = Course(Suta(lr=2e-4, preset=preset), tiny, [recorded[place] for place in places], monkeypatch)
    course.check(trace(reference, name), places)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "count"),
    [
        ("dsuta5_lr2e-4_dedup1", Dsuta(lr=2e-4), 15),
        ("dsuta5_lr2e-4_dedup0", Dsuta(lr=2e-4, preset="suta-paper"), 20),
        ("dsuta5_oracle_lr2e-4_dedup1", Dsuta(lr=2e-4, reset="fixed", every=40), 50),
    ],
)
def test_dsuta(
    reference: Path, tiny: Any, recorded: list[Utterance], monkeypatch: pytest.MonkeyPatch, name: str, method: Dsuta, count: int
) -> None:
    course = Course(method, tiny, recorded[:count], monkeypatch)
    course.check(trace(reference, name), list(range(count)))


@pytest.mark.slow
def test_dsuta_with_the_dynamic_reset(reference: Path, tiny: Any, recorded: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gaps, true = trace(reference, "dsuta5_reset_K20_lr2e-4_dedup1"), [], SlowStep.gaps
    monkeypatch.setattr(SlowStep, "gaps", lambda *given: (gaps.append(found := true(*given)), found)[1])
    course = Course(Dsuta(lr=2e-4, reset="dynamic", window=20), tiny, recorded, monkeypatch)
    course.check(kept, list(range(len(recorded))))
    assert [len(found) for found in gaps] == [len(entry["v"]) for entry in kept["trace"]["lii"]]
    np.testing.assert_allclose(np.concatenate(gaps), [gap for entry in kept["trace"]["lii"] for gap in entry["v"]], rtol=0, atol=1e-5)
    watch, deviations = course.state.watch, kept["trace"]["dev"]
    assert watch.mean == pytest.approx(deviations[0]["mu"], abs=1e-6)
    assert watch.spread == pytest.approx(deviations[0]["std"], abs=1e-6)
    judged = [watch.deviation(found) for found in gaps if len(found) == 5]
    assert judged == pytest.approx([entry["dev"] for entry in deviations], abs=5e-3)
    assert kept["reset_step"] == [event.detail["utterance"] for events in course.events for event in events if event.kind == "reset"]


@pytest.mark.parametrize("name", ["csuta1_lr2e-4_dedup1"])
def test_slow_steps_alone_are_continual_suta(
    reference: Path, tiny: Any, recorded: list[Utterance], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    course = Course(Dsuta(lr=2e-4, fast_steps=0, buffer=1), tiny, recorded[:60], monkeypatch)
    expected = [step["total_loss"] for step in trace(reference, name)["trace"]["steps"][:60]]
    found = [events[-1].detail["loss"] for events in course.events]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
