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


def test_text_without_words_is_told(asrlife, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("...\n\n")
    ended = asrlife("synthesize", tmp_path / "t.txt", tmp_path / "out")
    assert ended.code == 2 and "no line can be read aloud: 2 left out: has no words; is empty" in ended.err
    assert not (tmp_path / "out").exists()


def test_lines_that_were_changed_or_left_out_are_a_table_on_standard_error(asrlife, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("take 5 mg\nПривет\nopen the door\n")
    ended = asrlife("synthesize", tmp_path / "t.txt", tmp_path / "out", "--workers", 1)
    assert ended.code == 0 and ended.out == f"{tmp_path / 'out' / 'transcripts.jsonl'}\n"
    assert "3 lines: 1 used, 1 changed, 1 left out" in ended.err and "numbers, units and" in ended.err and "Cyrillic" in ended.err
    assert f"listen: {tmp_path / 'out' / 'listen.html'}" in ended.err.replace("\n", "")


def test_tables_rows_clips_and_augmentation(asrlife, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,note\n1,open the door\n2,shut it\n")
    document = asrlife(
        "synthesize", tmp_path / "t.csv", tmp_path / "out", "--column", "note", "--clips", 3, "--augment", "speed,reverb", "--json"
    ).json()
    assert document["utterances"] == 6 and 0 < document["augmented"] <= 6
    assert document["text"] == {"lines": 2, "used": 2, "changed": 0, "left out": 0, "sentences": 2} and document["failed"] == []
    (tmp_path / "t.jsonl").write_text('{"said": "open the door"}\n{"said": "shut it"}\n')
    options = ["--key", "said", "--limit", 1, "--rate", "120", "--pitch", "5-9", "--voice", "en-us+f?"]
    assert asrlife("synthesize", tmp_path / "t.jsonl", tmp_path / "two", *options, "--json").json()["utterances"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "fast"], "--rate is 'fast'; give a number or a range A-B within 80 to 450"),
        (["--rate", "190-140"], "--rate is '190-140'"),
        (["--pitch", "0-100"], "--pitch is '0-100'; give a number or a range A-B within 0 to 99"),
        (["--augment", "speed,echo"], "no augmentation is called 'echo'"),
        (["--column", "note"], "has no column 'note'"),
        (["--clips", "0"], "Invalid value for '--clips'"),
        (["--voice", "command:no-such {out}"], "there is no program 'no-such'"),
        (["--voice", "speecht5:nowhere"], "speecht5: there is no file or folder 'nowhere'"),
        (["--augment", "noise", "--noise", "gone.wav"], "'gone.wav' is no file, no folder"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_written(asrlife, text: Path, tmp_path: Path, options: list[str], message: str) -> None:
    ended = asrlife("synthesize", text, tmp_path / "out", *options)
    assert (ended.code, ended.out) == (2, "") and message in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_line(asrlife, text: Path) -> None:
    ended = asrlife("synthesize", text, text / "below")
    assert ended.code == 2 and str(text) in ended.err and ended.err.count("\n") == 1
