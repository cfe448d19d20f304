"""The step "syn2real": domains, vectors, what a strict experiment may hear, and a whole small run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.errors import InputError
from asrlife.recipe.recipe import find, read
from asrlife.recipe.registry import Place
from asrlife.recipe.run import run
from asrlife.recipe.syn2real import workshop
from asrlife.recipe.syn2real.domains import Domain, Heard, Voices, heard, parted, real_of
from asrlife.recipe.syn2real.protocol import Experiment, Published, Strict, usual
from asrlife.recipe.syn2real.step import SynToReal
from asrlife.recipe.syn2real.workshop import mean

RATE = 16_000
WORDS = {"red": ("red one", "red two"), "blue": ("blue one", "blue two"), "green": ("green eggs", "green ham")}


@contextmanager
def no_bar(task: str, total: int | None) -> Iterator[Callable[[], None]]:
    yield lambda: None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, tmp_path / "out", no_bar)


def manifest(folder: Path, texts: Sequence[str], copies: int = 12, **more: str) -> Path:
    rng = np.random.default_rng(0)
    waves = [Waveform((0.1 * rng.standard_normal(RATE // 2 + 100 * i)).astype(np.float32), RATE) for i in range(copies * len(texts))]
    rows = [Utterance(f"u{i:03d}", wave, texts[i % len(texts)], speaker="ab"[i % 2], **more) for i, wave in enumerate(waves)]
    Corpus(tuple(rows)).write(folder / "real.jsonl")
    return folder / "real.jsonl"


def test_a_domain_is_what_its_pattern_matches_and_its_splits_share_nothing(tmp_path: Path, place: Place) -> None:
    path = manifest(tmp_path, ["red one", "blue two"], 40)
    found = real_of("red", Domain(manifest=str(path), where="^red ", most={"train": 9}), place)
    assert {u.text for corpus in found.values() for u in corpus} == {"red one"}
    ids = [u.id for corpus in found.values() for u in corpus]
    assert len(ids) == len(set(ids)) and len(found["train"]) == 9
    assert all(parted(u.id) == split for split, corpus in found.items() for u in corpus)
    with pytest.raises(InputError, match="domain x: .* holds nothing of split 'train' that matches '\\^pink '"):
        real_of("x", Domain(manifest=str(path), where="^pink "), place)
    with pytest.raises(ValueError, match="is no regular expression"):
        Domain(manifest="m", where="(")


def test_joined_recordings_are_of_one_speaker_and_say_what_they_hold(tmp_path: Path, place: Place) -> None:
    path = manifest(tmp_path, ["one", "two", "three"], 30)
    alone = {u.id: u for u in Corpus.read(path)}
    found = real_of("n", Domain(manifest=str(path), join=3, most={"train": 6, "dev": 2, "test": 2}), place)
    assert [len(corpus) for corpus in found.values()] == [6, 2, 2]
    for utterance in found["train"]:
        assert len(str(utterance.text).split()) == 3 and utterance.speaker in ("a", "b")
        longest = 3 * (max(u.waveform().duration for u in alone.values()) + 0.2)
        assert 3 * 0.5 < utterance.waveform().duration < longest
    again = real_of("n", Domain(manifest=str(path), join=3, most={"train": 6, "dev": 2, "test": 2}), place)
    assert [u.text for u in again["train"]] == [u.text for u in found["train"]]


def test_the_texts_of_training_are_read_aloud_and_no_others(tmp_path: Path, place: Place) -> None:
    path = manifest(tmp_path, ["say a", "say b"], 20)
    found = heard("say", Domain(manifest=str(path), most={"train": 5, "dev": 1, "test": 1}), Voices(clips=2, say={"a": "ay"}), place, "d")
    assert sorted(str(u.text) for u in found.synthetic) == sorted(2 * [str(u.text) for u in found.real["train"]])
    rows = [json.loads(line) for line in (place.out / "d" / "say" / "transcripts.jsonl").read_text().splitlines()]
    assert {row["text"]: row.get("said") for row in rows} == {"say a": "say ay", "say b": None}


class Ledger:
    """A workshop that makes one-number deltas and notes what was asked of it."""

    def __init__(self, domains: dict[str, Heard]) -> None:
        self.domains, self.asked = domains, list[tuple[str, tuple[str, ...]]]()
        self.model = SimpleNamespace()

    def _delta(self, kind: str, names: Sequence[str], value: float) -> Delta:
        self.asked.append((kind, tuple(names)))
        return Delta("base", {"w": Dense(torch.full((1,), value))})

    def real(self, names: Sequence[str]) -> Delta:
        return self._delta("real", names, 3.0 * len(names))

    def synthetic(self, names: Sequence[str]) -> Delta:
        return self._delta("synthetic", names, 1.0 * len(names))

    def vector(self, names: Sequence[str]) -> Delta:
        return self.real(names) - self.synthetic(names)

    def mixed(self, names: Sequence[str], dev: Any) -> Delta:
        return self._delta("mixed", names, 10.0)

    def continued(self, names: Sequence[str], target: str, dev: Any) -> Delta:
        return self._delta("continued", (*names, target), 11.0)


def small_domains() -> dict[str, Heard]:
    def corpus(name: str, split: str) -> Corpus:
        wave = Waveform(np.zeros(160, np.float32), RATE)
        return Corpus(tuple(Utterance(f"{name}-{split}-{i}", wave, text) for i, text in enumerate(WORDS[name])))

    return {name: Heard(name, {s: corpus(name, s) for s in ("train", "dev", "test")}, corpus(name, "tts")) for name in WORDS}


def experiment(best: float) -> tuple[Experiment, Ledger, list[tuple[float, tuple[str, ...]]]]:
    """Errors that are lowest where the weight is `best`; what was heard is noted."""
    ledger, seen = Ledger(small_domains()), list[tuple[float, tuple[str, ...]]]()

    def hear(delta: Delta | None, utterances: Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        weight = 0.0 if delta is None else float(delta.tensors["w"].dense())
        seen.append((weight, tuple(u.id for u in utterances)))
        return tuple(round(100 * abs(weight - best)) for _ in utterances), tuple(100 for _ in utterances)

    said = {name: list(each.synthetic) for name, each in ledger.domains.items()}
    return Experiment(ledger, hear, 1, (0.0, 0.5, 1.0), 1, said), ledger, seen  # type: ignore[arg-type]


def test_a_strict_experiment_hears_no_real_speech_of_its_target_before_the_test() -> None:
    at, ledger, seen = experiment(best=2.0)
    trials = Strict(at).trials("red")
    real = [names for kind, names in ledger.asked if kind in ("real", "mixed", "continued") and "red" in names]
    assert real == [("red",)] and ledger.asked[-1] == ("real", ("red",))  # the topline, last of all
    heard_of_target = [ids for _, ids in seen if any(i.startswith("red-dev") or i.startswith("red-train") for i in ids)]
    assert heard_of_target == []
    first_test = next(number for number, (_, ids) in enumerate(seen) if ids[0].startswith("red-test"))
    assert all("-dev-" in ids[0] for _, ids in seen[: first_test - 1])  # the synthetic test is heard between
    rows = {trial.row: trial for trial in trials if trial.axis == "generality"}
    assert list(rows) == ["base", "source", "synthetic", "+ one", "+ mean", "+ nearest", "topline"]
    # synthetic 1, vectors: one 2 * 2, mean 2, nearest 2; rehearsed on blue and green, scale 0.5 comes to 2, the best there is
    assert {row: trial.errors[0] for row, trial in rows.items()} == {
        "base": 200, "source": 400, "synthetic": 100, "+ one": 100, "+ mean": 0, "+ nearest": 0, "topline": 100,
    }  # fmt: skip
    assert {trial.row for trial in trials if trial.axis == "locality"} == {"base", "synthetic", "+ one"}
    assert at.chosen["strict red mean"] == {"scale": 0.5, "errors": {"0.0": 1.0, "0.5": 0.0, "1.0": 1.0}}


def test_the_published_protocol_chooses_on_the_target_and_says_so() -> None:
    at, _, seen = experiment(best=12.0)
    rows = {trial.row: trial for trial in Published(at).trials("red") if trial.axis == "generality"}
    assert any(ids[0].startswith("red-dev") for _, ids in seen)
    assert at.chosen["published red nearest"]["scale"] == 0.5 and rows["+ nearest"].errors[0] == 0
    assert rows["synthetic"].errors[0] == 100 and rows["source"].errors[0] == 200


def test_the_nearest_domain_is_that_of_the_most_similar_texts() -> None:
    at, *_ = experiment(best=0.0)
    assert at.nearest("red", ("green", "blue")) == "blue" and at.nearest("blue", ("green", "red")) == "red"


def test_a_mean_of_deltas_is_their_mean() -> None:
    deltas = [Delta("b", {"w": Dense(torch.tensor([v]))}) for v in (1.0, 2.0, 6.0)]
    assert float(mean(deltas).tensors["w"].dense()) == pytest.approx(3.0)


def test_the_usual_scale_is_the_best_over_all_targets() -> None:
    chosen = {
        "strict a mean": {"errors": {"0.0": 0.9, "0.5": 0.5, "1.0": 0.6}},
        "strict b mean": {"errors": {"0.0": 0.9, "0.5": 0.7, "1.0": 0.5}},
        "strict b one": {"errors": {"0.0": 0.0, "0.5": 1.0, "1.0": 1.0}},
    }  # fmt: skip
    assert usual(chosen) == 1.0


def settings(tmp_path: Path, model: Path) -> dict[str, Any]:
    path = manifest(tmp_path, [text for texts in WORDS.values() for text in texts], 16)
    domain = {"manifest": str(path), "most": {"train": 2, "dev": 1, "test": 1}}
    return {
        "kind": "syn2real", "model": str(model), "protocols": ["strict", "published"], "seeds": [1], "scales": [0.0, 0.5], "near": 1,
        "domains": {name: {**domain, "where": f"^{name} "} for name in WORDS}, "tune": {"steps": 2, "batch_seconds": 4, "rate": 1e-3},
    }  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_goes_on_where_it_was_stopped_and_keeps_what_is_there(
    tmp_path: Path, place: Place, ctc_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(tmp_path, ctc_folder())
    whole = SynToReal(**asked).run(Place(tmp_path, tmp_path / "whole", no_bar))
    taught, count = workshop.Workshop._taught, [0]

    def stopping(self: Any, *given: Any) -> Delta:
        count[0] += 1
        if count[0] == 9:
            raise KeyboardInterrupt
        return taught(self, *given)

    monkeypatch.setattr(workshop.Workshop, "_taught", stopping)
    with pytest.raises(KeyboardInterrupt):
        SynToReal(**asked).run(place)
    found = SynToReal(**asked).run(place)
    assert found["protocols"] == whole["protocols"] and set(found["protocols"]) == {"strict", "published"}
    one, two = (json.loads(Path(each["json"]).read_text()) for each in (whole, found))
    assert one["protocols"] == two["protocols"] and one["chosen"] == two["chosen"]
    made = count[0]
    SynToReal(**asked).run(place)
    assert count[0] == made
    vector = file.load(Path(found["vector"]))
    assert vector.note["scale"] in (0.0, 0.5) and set(vector.note["domains"]) == set(WORDS)
    seed = Path(found["vector"]).parent / "seed-1"
    expected = mean([file.load(seed / f"real-{name}.safetensors") - file.load(seed / f"synthetic-{name}.safetensors") for name in WORDS])
    assert (vector - expected).norm() < 1e-3 * expected.norm()
    for picture in found["pictures"].values():
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(KeyboardInterrupt):  # other settings: nothing that was kept counts
        count[0] = 8
        SynToReal(**{**asked, "tune": {**asked["tune"], "rate": 2e-3}}).run(place)


@pytest.mark.slow
def test_the_recipe_that_needs_nothing_else_runs(tmp_path: Path, ctc_folder: Callable[..., Path]) -> None:
    steps = run(read(find("syn2real"), tiny=True, changes=[f"model={ctc_folder()}"]), tmp_path, no_bar)["steps"]
    assert set(steps["table"]["pictures"]) == {"strict", "published"} and Path(steps["table"]["vector"]).is_file()
    told = json.loads(Path(steps["table"]["json"]).read_text())
    assert list(told["domains"]) == ["bin", "lay", "place", "set"] and told["domains"]["bin"]["utterances"]["train"] == 2
    assert set(told["protocols"]["strict"]["axes"]) == {"reliability", "generality", "locality"}
