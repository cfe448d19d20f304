from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from asrlife.audio.read import read
from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.recipe.speech import VOICES, read_aloud, readings

SENTENCES = ["turn on the lights", "what time is it", "turn on the lights"]


def stamp(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_gives_same_bytes_whatever_was_said_before(tmp_path: Path) -> None:
    read_aloud(readings(SENTENCES, seed=3), tmp_path / "a")
    read_aloud(readings(["something else"], seed=5), tmp_path / "other")
    read_aloud(readings(SENTENCES, seed=3), tmp_path / "b")
    assert stamp(tmp_path / "a") == stamp(tmp_path / "b")
    read_aloud(readings(SENTENCES, seed=4), tmp_path / "c")
    assert stamp(tmp_path / "a") != stamp(tmp_path / "c")


def test_the_manifest_says_what_was_read_and_by_whom(tmp_path: Path) -> None:
    corpus = Corpus.read(read_aloud(readings(SENTENCES, ["en-us+f2"]), tmp_path))
    assert [u.text for u in corpus] == SENTENCES
    assert {(u.speaker, u.origin) for u in corpus} == {("en-us+f2", "synthetic")}
    for utterance in corpus:
        waveform = utterance.waveform()
        assert waveform.rate == 16_000 and waveform.duration == pytest.approx(utterance.duration, abs=1e-3)
        assert np.abs(waveform.samples).max() > 0.05


def ages(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.flac")}


def test_a_second_run_keeps_what_is_there_and_makes_what_is_missing(tmp_path: Path) -> None:
    plans = readings(SENTENCES)
    read_aloud(plans, tmp_path)
    before, old = stamp(tmp_path), ages(tmp_path)
    (tmp_path / plans[1].file).unlink()
    read_aloud(plans, tmp_path)
    assert stamp(tmp_path) == before
    assert {name for name, age in ages(tmp_path).items() if age != old[name]} == {Path(plans[1].file).name}


def test_changed_text_is_read_again(tmp_path: Path) -> None:
    read_aloud(readings(SENTENCES), tmp_path)
    old, changed = ages(tmp_path), ["turn off the lights", *SENTENCES[1:]]
    corpus = Corpus.read(read_aloud(readings(changed), tmp_path))
    assert [u.text for u in corpus] == changed
    fresh = {name for name, age in ages(tmp_path).items() if old.get(name) != age}
    assert len(fresh) == 1 and next(iter(fresh)).startswith("00000-")


def test_progress_counts_every_sentence_once(tmp_path: Path) -> None:
    for _ in range(2):
        ticks = list[None]()
        read_aloud(readings(SENTENCES), tmp_path, partial(ticks.append, None))
        assert len(ticks) == len(SENTENCES)


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("en-us+m33", "unknown voice 'en-us\\+m33': no variant 'm33'; did you mean 'm3'"),
        ("en-uss", "unknown voice 'en-uss'; did you mean 'en-us'"),
        ("flite:nobody", "unknown voice 'flite:nobody'"),
        ("", "unknown voice ''"),
    ],
)
def test_an_unknown_voice_is_named_before_anything_is_written(tmp_path: Path, voice: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_aloud(readings(SENTENCES, [voice]), tmp_path / "speech")
    assert not (tmp_path / "speech").exists()


def test_default_voices_all_speak_and_differ(tmp_path: Path) -> None:
    plans = [readings(["one two three"], [voice])[0] for voice in VOICES]
    read_aloud(plans, tmp_path)
    sounds = {read(tmp_path / plan.file).samples.tobytes() for plan in plans}
    assert len(sounds) == len(VOICES)
