"""Which utterances count, and that sets are apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.methods.tune import Settings, tune
from asrlife.methods.tune.evidence import check_apart, gathered
from asrlife.methods.tune.task import task_of

ONE = Settings(steps=1, mask_time=0.0, batch_seconds=2.0)


def manifest(folder, rows, name="m.jsonl"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return path


def recorded(folder, name, seed, seconds=0.4):
    wave = Waveform(0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)), 16_000)
    write(folder / name, wave.quantised())
    return name


def test_what_cannot_be_used_is_named_by_line_and_the_rest_is_learnt(loaded, tmp_path) -> None:
    for seed in range(3):
        recorded(tmp_path, f"{seed}.wav", seed)
    recorded(tmp_path, "short.wav", 9, 0.02)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    long = "abc " * 700
    path = manifest(
        tmp_path,
        [
            {"id": "good", "audio": "0.wav", "text": "one two"}, "", {"id": "emoji", "audio": "1.wav", "text": "so nice 🎉"},
            {"id": "empty", "audio": "1.wav", "text": "  "}, {"id": "none", "audio": "1.wav"},
            {"id": "greek", "audio": "2.wav", "text": "καλημέρα"},
            {"id": "long", "audio": "2.wav", "text": long}, {"id": "short", "audio": "short.wav", "text": "far too many letters"},
            {"id": "broken", "audio": "broken.wav", "text": "one"}, {"id": "gone", "audio": "gone.wav", "text": "one"},
        ],
    )  # fmt: skip
    found = tune(loaded("ctc"), Corpus.read(path), settings=ONE)
    said = {problem.split(": ")[1]: problem for problem in found.problems}
    assert {"emoji", "empty", "none", "greek", "long", "short", "broken", "gone"} == set(said)
    assert said["emoji"].startswith(f"{path}:3: emoji: the model cannot spell '🎉'")
    assert "has no text to learn from" in said["empty"] and ":4:" in said["empty"] and "has no text" in said["none"]
    assert "cannot spell" in said["greek"] and "letters in" in said["long"] and "letters in" in said["short"]
    assert f"{path}:10: gone" in said["gone"] and all(problem.endswith("left out") for problem in said.values())
    assert found.delta.note["evidence"]["train"] | {"source": ""} == {
        "source": "", "utterances": 1, "left_out": 8, "size": 0.4, "fingerprint": found.delta.note["evidence"]["train"]["fingerprint"],
    }  # fmt: skip


def test_whisper_says_what_does_not_fit_its_window_and_its_decoder(loaded, corpus) -> None:
    (one,) = corpus(1).utterances
    long = replace(one, id="sound", audio=Waveform(0.1 * np.ones(40_000), 16_000))
    wordy, silent = replace(one, id="words", text="abc " * 40), replace(one, id="silent", audio=Waveform(np.zeros(0), 16_000))
    found = tune(loaded("whisper"), Corpus((one, long, wordy, silent)), settings=ONE)
    assert [problem.split(":")[0] for problem in found.problems] == ["sound", "words", "silent"]
    assert "exceed the model's window" in found.problems[0] and "tokens, the decoder takes" in found.problems[1]
    assert "holds no sound" in found.problems[2]


def test_a_language_model_says_what_is_too_long(loaded, corpus) -> None:
    (one,) = corpus(1).utterances
    found = tune(loaded("lm"), Corpus((one, replace(one, id="long", text="abc " * 400))), settings=ONE)
    (problem,) = found.problems
    assert problem.startswith("long: has ") and problem.endswith(" tokens, the model takes 128; split it; left out")


def test_a_set_without_anything_usable_is_refused(loaded, corpus) -> None:
    bad = Corpus(tuple(replace(utterance, text="123") for utterance in corpus(5)))
    with pytest.raises(InputError, match="train: no utterance of the corpus can be used: u0-0: the model cannot spell '1' '2' '3'"):
        tune(loaded("ctc"), bad, settings=ONE)
    with pytest.raises(InputError, match="dev: no utterance .* can be used: it is empty"):
        tune(loaded("ctc"), corpus(2), Corpus(()), ONE)


@pytest.mark.parametrize("names", [("train", "dev"), ("train", "test"), ("dev", "test")])
def test_sets_that_share_an_utterance_are_refused(loaded, corpus, names) -> None:
    shared = corpus(2, seed=4)
    sets = {name: corpus(2, seed=place) for place, name in enumerate(("train", "dev", "test"))} | dict.fromkeys(names, shared)
    with pytest.raises(
        InputError, match=rf"{names[0]} \(in memory\) and {names[1]} \(in memory\) share 2 recordings or texts \(u4-0, u4-1\)"
    ):
        tune(loaded("ctc"), sets["train"], sets["dev"], ONE, test=sets["test"])


def test_a_recording_under_another_name_or_another_under_its_id_is_found(loaded, tmp_path) -> None:
    rows = [{"id": "a", "audio": recorded(tmp_path, "a.wav", 1), "text": "one"}]
    copied = (tmp_path / "copy.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    task = task_of(loaded("ctc"))
    train = gathered(task, Corpus.read(manifest(tmp_path, rows)), "train")
    again = gathered(task, Corpus.read(manifest(tmp_path, [{"id": "b", "audio": "copy.wav", "text": "one"}], "b.jsonl")), "dev")
    with pytest.raises(InputError, match=r"share 1 recordings or texts \(b\): take out of train what is in dev, or name another split"):
        check_apart(train, again)
    other = [{"id": "a", "audio": recorded(tmp_path, "c.wav", 2), "text": "one"}]
    with pytest.raises(InputError, match=r"share 1 ids \(a\)"):
        check_apart(train, gathered(task, Corpus.read(manifest(tmp_path, other, "c.jsonl")), "dev"))
    assert copied > 0
    check_apart(train, None)


def test_old_data_may_use_an_id_again_and_is_heard_as_itself(loaded, tmp_path) -> None:
    task = task_of(loaded("ctc"))
    rows = [[{"id": "a", "audio": recorded(tmp_path, f"{seed}.wav", seed, 0.3 + 0.1 * seed), "text": "one"}] for seed in (1, 2)]
    one, two = (gathered(task, Corpus.read(manifest(tmp_path, row, f"{place}.jsonl")), "set") for place, row in enumerate(rows))
    assert (one.items[0].size, two.items[0].size) == pytest.approx((0.4, 0.5))
    assert task.given(two.items).batch.lengths.tolist() == [8000]  # type: ignore[union-attr]


def test_language_models_compare_texts(loaded, corpus) -> None:
    (one, two) = corpus(2).utterances
    same = Corpus((replace(two, id="x", text=one.text),))
    with pytest.raises(InputError, match=r"share 1 recordings or texts \(x\)"):
        tune(loaded("lm"), Corpus((one,)), same, ONE)


def test_the_fingerprint_changes_with_any_id_text_or_sound(loaded, corpus) -> None:
    task, (one, two) = task_of(loaded("ctc")), corpus(2).utterances
    kinds = [
        (one, two),
        (two, one),
        (replace(one, id="x"), two),
        (replace(one, text="abc"), two),
        (replace(one, audio=two.audio), two),
        (one,),
    ]
    assert len({gathered(task, Corpus(kind), "train").fingerprint for kind in kinds}) == len(kinds)


def test_a_recogniser_without_a_loss_is_refused(loaded) -> None:
    class Mute:
        name, capabilities = "mute", frozenset({"emissions"})

    with pytest.raises(InputError, match="mute has no supervised loss"):
        task_of(Mute())  # type: ignore[arg-type]
