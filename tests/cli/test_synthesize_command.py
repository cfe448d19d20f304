from __future__ import annotations

from pathlib import Path

import pytest

from asrlife.data.corpus import Corpus


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("open the door\n\n  close the window  \n")
    return path


def test_lines_become_speech_with_a_manifest(asrlife, text: Path, tmp_path: Path) -> None:
    ended = asrlife("synthesize", text, tmp_path / "out", "--voice", "en-us+f2", "--voice", "en-us+m2", "--seed", "5")
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'out' / 'transcripts.jsonl'}\n"
    corpus = Corpus.read(tmp_path / "out" / "transcripts.jsonl")
    assert [utterance.text for utterance in corpus] == ["open the door", "close the window"]
    assert {utterance.speaker for utterance in corpus} <= {"en-us+f2", "en-us+m2"}


def test_json_says_what_was_made(asrlife, text: Path, tmp_path: Path) -> None:
    document = asrlife("synthesize", text, tmp_path / "out", "--json").json()
    assert document["utterances"] == 2 and Path(document["manifest"]).is_file() and document["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--voice", "en-us+f22"], "no variant 'f22'; did you mean 'f2'"), (["--voice", "klingonese"], "unknown voice 'klingonese'")],
)
def test_an_unknown_voice_is_one_line(asrlife, text: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = asrlife("synthesize", text, tmp_path / "out", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err and ended.err.count("\n") == 1


def test_text_that_makes_no_sound_is_named(asrlife, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("...\n")
    ended = asrlife("synthesize", tmp_path / "t.txt", tmp_path / "out")
    assert ended.code == 2 and "nothing to say for '...'" in ended.err


def test_a_folder_that_cannot_be_made_is_one_line(asrlife, text: Path) -> None:
    ended = asrlife("synthesize", text, text / "below")
    assert ended.code == 2 and str(text) in ended.err and ended.err.count("\n") == 1
