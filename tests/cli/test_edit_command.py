"""`asrlife edit word`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asrlife.delta import file
from asrlife.models.load import load


@pytest.fixture(scope="session")
def model(ctc_folder: Callable[..., Path]) -> Path:
    return ctc_folder()


def test_it_teaches_a_word_from_voices_and_says_what_is_heard_otherwise(asrlife, model: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoe.safetensors"
    line = ["edit", "word", model, "--say", "call zoe", "--word", "zoe", "--voice", "en-us+f3", "--pronounced", "zo we", "--keep", manifest]
    ended = asrlife(*line, "--where", "head", "--ridge", "0.01", "--threads", 1, "--out", out)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("call zoe\n  before: ") and f"{out}: " in ended.out and " of 3 utterances that were to stay" in ended.out
    delta = file.load(out)
    assert list(delta.tensors) == ["lm_head.weight"] and delta.note["evidence"]["word"] == "zoe"
    assert delta.base == load(model).fingerprint() != load(model, delta=out).fingerprint()
    again = asrlife(*line, "--out", out)
    assert again.code == 2 and "is there already; choose another name" in again.err


def test_it_teaches_from_recordings_and_prints_one_document(
    asrlife, model: Path, speech: list[Path], manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "light.safetensors"
    sound = ["--audio", speech[0], "--audio", speech[1], "--text", "turn on the kitchen light", "--text", "what time is it"]
    found = asrlife("edit", "word", model, *sound, "--keep", manifest, "--where", "mlp", "--layer", 0, "--out", out, "--json").json()
    assert [row["text"] for row in found["taught"]] == ["turn on the kitchen light", "what time is it"]
    assert found["at"].endswith("layers.0.feed_forward.output_dense") and found["settings"]["layer"] == 0 and found["kept"] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "nothing to teach from: give --audio FILE with its --text, or --say SENTENCE"),
        ("--text a", "0 recordings and 1 texts"),
        ("--audio a.wav --audio b.wav --text a --text b --text c", "2 recordings and 3 texts"),
        ("--say zoe --word phoebe", "'phoebe' is not in 'zoe'"),
        ("--say zoe --pronounced zow", "--pronounced says how --word is to be read in --say"),
        ("--say zoe --where heads", "teach: where: Input should be 'head', 'mlp' or 'cross-attention'"),
        ("--say zoe", "nothing.jsonl: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_no_file(asrlife, model: Path, line: str, message: str, tmp_path: Path) -> None:
    ended = asrlife("edit", "word", model, *line.split(), "--keep", "nothing.jsonl", "--out", tmp_path / "x.safetensors")
    assert (ended.code, ended.out) == (2, "") and message in ended.err and ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"), [("--audio missing.wav --text a", "missing.wav"), ("--say z3", "the model cannot spell '3' of 'z3'")]
)
def test_sound_and_letters_are_checked(asrlife, model: Path, manifest: Path, line: str, message: str, tmp_path: Path) -> None:
    ended = asrlife("edit", "word", model, *line.split(), "--keep", manifest, "--out", tmp_path / "x.safetensors")
    assert (ended.code, ended.out) == (2, "") and message in ended.err and not list(tmp_path.iterdir())


def test_the_name_of_the_file_is_checked_first(asrlife, model: Path) -> None:
    ended = asrlife("edit", "word", model, "--say", "zoe", "--out", "zoe.pt")
    assert ended.code == 2 and "--out zoe.pt: the name of a delta file ends in .safetensors" in ended.err
