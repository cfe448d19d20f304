"""What the embedded models and their adaptation promise on real speech; thresholds are measured figures with a margin."""

from __future__ import annotations

from pathlib import Path

import jiwer
import pytest

import asrlife
from asrlife.data.condition import Condition
from asrlife.data.corpus import Corpus
from asrlife.evaluate.run import evaluate
from asrlife.methods.online import make

pytestmark = pytest.mark.slow


def rate(name: str, corpus: Corpus) -> float:
    hypotheses = asrlife.load(name).transcribe([u.waveform() for u in corpus])
    return float(jiwer.wer([str(u.text) for u in corpus], [h.text for h in hypotheses]))


@pytest.fixture(scope="module")
def commands(shared: Path) -> Corpus:
    return Corpus.read(shared / "speech-grid" / "transcripts.jsonl")


@pytest.mark.parametrize(("name", "most"), [("embedded:ctc", 0.12), ("embedded:whisper", 0.09)])
def test_real_commands_are_understood(name: str, most: float, commands: Corpus) -> None:
    assert rate(name, commands.split("test").limit(60)) <= most  # 8.8 and 4.6 % on all 160


def test_a_model_that_never_heard_a_human_does_not_understand_one(commands: Corpus) -> None:
    assert rate("embedded:ctc-tts", commands.split("dev").limit(20)) > 0.6  # 90 % on the test split


def test_adaptation_pays_in_a_noisy_kitchen(shared: Path, commands: Corpus) -> None:
    model = asrlife.load("embedded:ctc")
    kitchen = Condition(str(shared / "noise" / "audio" / "picovoice_kitchen.flac"), 5.0, 1)
    methods = {name: make(name, {}, model) for name in ("none", "suta", "dsuta")}
    found = evaluate(model, commands.split("dev").limit(24), methods, kitchen)
    none, suta, dsuta = (run["wer"] for run in found.to_json()["runs"])
    assert none > 0.4  # 75 % on the test split, where clean speech has 9 %
    assert suta < none - 0.1 and dsuta < none - 0.15  # 35 and 49 points better there
    pair = next(p for p in found.to_json()["paired"] if (p["a"], p["b"]) == ("none", "dsuta"))
    assert pair["high"] < 0
