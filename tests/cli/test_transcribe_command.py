from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrlife.audio.read import read


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return 0.1 * np.sin(np.arange(int(seconds * rate)) * 0.1).astype(np.float32)


def not_a_number(path: Path) -> None:
    soundfile.write(path, np.full(1600, np.nan, np.float32), 16_000, subtype="FLOAT")


def truncated(path: Path) -> None:
    soundfile.write(path, tone(2) + np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:20_000])


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.wav", lambda p: None, "no such file"),
    "empty": ("a.wav", lambda p: p.touch(), "is empty"),
    "no samples": ("a.wav", lambda p: soundfile.write(p, np.zeros(0), 16_000), "holds no samples"),
    "not a number": ("a.wav", not_a_number, "NaN|not finite"),
    "truncated": ("a.flac", truncated, "cut short"),
    "text": ("a.wav", lambda p: p.write_text("hello there, I am no sound"), "holds text, not sound"),
    "folder": ("a.wav", lambda p: p.mkdir(), "is a folder"),
}


def test_json_has_the_keys_and_word_times_within_the_sound(asrlife, speech: list[Path]) -> None:
    ended = asrlife("transcribe", *speech[:2], "--adapt", "suta", "--set", "steps=1", "--json")
    assert ended.code == 0
    document = ended.json()
    assert set(document) == {"results", "problems"} and document["problems"] == []
    assert [result["path"] for result in document["results"]] == [str(path) for path in speech[:2]]
    for result in document["results"]:
        assert set(result) == {"path", "text", "words", "duration", "adapt", "events"}
        assert result["duration"] == pytest.approx(read(result["path"]).duration)
        assert " ".join(word["text"] for word in result["words"]) == result["text"]
        assert all(
            0 <= word["start"] <= word["end"] <= result["duration"] + 0.2 and 0 <= word["confidence"] <= 1 for word in result["words"]
        )
        assert result["adapt"] == "suta" and result["events"][0]["kind"] == "stepped" and result["events"][0]["steps"] == 1


def test_long_sound_is_cut_at_pauses_and_times_go_on(asrlife, speech: list[Path], tmp_path: Path) -> None:
    parts = [np.concatenate([read(path).samples, np.zeros(16_000, np.float32)]) for path in speech]
    long = np.concatenate(parts * 5)
    soundfile.write(tmp_path / "long.flac", long, 16_000)
    ended = asrlife("transcribe", tmp_path / "long.flac", "--adapt", "dsuta", "--set", "fast_steps=1", "--json")
    assert ended.code == 0
    result = ended.json()["results"][0]
    assert result["duration"] == pytest.approx(len(long) / 16_000) and result["duration"] > 20
    starts = [word["start"] for word in result["words"]]
    assert starts == sorted(starts) and starts[-1] > 20
    assert sum(event["kind"] == "stepped" for event in result["events"]) >= 2


def test_one_file_gives_its_text_and_several_give_their_paths(asrlife, speech: list[Path]) -> None:
    one, two = asrlife("transcribe", speech[0]), asrlife("transcribe", *speech[:2])
    lines = two.out.splitlines()
    assert lines[0] == f"{speech[0]}\t{one.out.rstrip()}"
    assert lines[1].startswith(f"{speech[1]}\t") and len(lines) == 2


@pytest.mark.parametrize("case", BAD)
def test_one_bad_file_is_named_and_the_other_is_done(asrlife, speech: list[Path], tmp_path: Path, case: str) -> None:
    name, make, message = BAD[case]
    make(tmp_path / name)
    ended = asrlife("transcribe", tmp_path / name, speech[0], "--json")
    assert ended.code == 0
    document = ended.json()
    assert [result["path"] for result in document["results"]] == [str(speech[0])]
    assert len(document["problems"]) == 1 and str(tmp_path / name) in document["problems"][0]
    lines = [line for line in ended.err.splitlines() if line.startswith("asrlife: error: ")]
    assert len(lines) == 1 and str(tmp_path / name) in lines[0]
    assert any(word in lines[0] for word in message.split("|"))


def test_only_bad_files_are_exit_code_2(asrlife, tmp_path: Path) -> None:
    ended = asrlife("transcribe", tmp_path / "a.wav", "--json")
    assert ended.code == 2
    assert ended.json() == {"results": [], "problems": [f"{tmp_path / 'a.wav'}: no such file; check the path"]}


def test_stereo_at_96_khz_is_mixed_aloud(asrlife, tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([tone(1, 96_000)] * 2, axis=1), 96_000)
    ended = asrlife("transcribe", path, "--json")
    assert ended.code == 0 and ended.json()["results"][0]["duration"] == pytest.approx(1.0, abs=0.01)
    assert "mixed 2 channels to mono" in ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapt", "sutta"], "unknown adaptation 'sutta'; did you mean 'suta'?"),
        (["--adapt", "suta", "--set", "stepps=1"], "unknown key 'stepps'; did you mean 'steps'?"),
        (["--adapt", "suta", "--set", "steps=many"], "steps: "),
        (["--adapt", "suta", "--set", "dsuta.lr=1"], "'dsuta' is not among the methods of this run"),
        (["--adapt", "suta", "--set", "lr"], "should be key=value"),
        (["--set", "lr=1"], "none has no settings"),
        (["--model", "embedded:ctcc"], "embedded:ctc"),
    ],
)
def test_wrong_settings_are_one_line(asrlife, speech: list[Path], arguments: list[str], message: str) -> None:
    ended = asrlife("transcribe", speech[0], *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err and ended.err.count("\n") == 1
