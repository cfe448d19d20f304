"""`asrlife domain`: one command from a text to a delta that is judged, and nothing of the text lost on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.models.load import load
from asrlife.recipe.speech import read_aloud, readings

LONG = " ".join(["the patient is well and goes home"] * 91)  # some 3,000 characters
GOOD = [
    "start warfarin", "stop aspirin", "chest pain", "no fever", "give two tablets", "blood pressure is high", "heart rate is low",
    "repeat the test", "follow up in a week", "the lungs are clear", "take it with food", "call the clinic",
]  # fmt: skip
ODD = ["", "\U0001f642\U0001f642", LONG, "Привет как дела", "東京", "give 5 mg \U0001f642 of digoxin", "start warfarin", "   "]
QUICK = ["--clips", 1, "--steps", 2, "--rate", "1e-3", "--set", "batch_seconds=6", "--keep", "none", "--threads", 1, "--workers", 1]


@pytest.fixture(scope="session")
def model(ctc_folder: Callable[..., Path]) -> Path:
    return ctc_folder()


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with the splits dev and test, as recordings of a domain have them."""
    folder = tmp_path_factory.mktemp("ward")
    path = read_aloud(readings(["start digoxin", "no pain", "give one tablet", "all clear"], ["en-us+f2"], seed=7), folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    marked = [row | {"split": "dev" if number < 2 else "test", "origin": "real"} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in marked))
    return path


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text with odd lines between good ones, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    lines = [line for pair in zip(GOOD, [*ODD, *[""] * 4], strict=True) for line in pair]
    (tmp_path / "notes.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "notes.txt"


def vector(model: Path, path: Path, **note: Any) -> Path:
    """A vector that moves one bias of the model."""
    loaded = load(model)
    bias = torch.full_like(loaded.module.lm_head.bias, 0.25)
    file.save(Delta(loaded.fingerprint(), {"lm_head.bias": Dense(bias)}, {"method": "difference", **note}), path)
    return path


def test_a_text_becomes_a_domain_that_is_found_by_its_name(asrlife, notes: Path, model: Path, manifest: Path) -> None:
    line = ["domain", "--text", notes, "--name", "ward", "--model", model, "--general", manifest, *QUICK]
    ended = asrlife(*line)
    assert ended.code == 0, ended.err
    folder = Path("domains/ward")
    assert sorted(path.name for path in folder.iterdir()) == [
        "delta.json", "delta.safetensors", "plan.json", "report.html", "report.json", "speech", "work",
    ]  # fmt: skip
    assert ended.out.splitlines()[-1] == f"serve it: asrlife serve --model {model} --delta ward"
    table = [text for text in ended.out.splitlines() if not text.startswith(("serve it", "report:"))]
    assert max(map(len, table)) <= 80 and "unadapted" in ended.out and "generality: not measured" in ended.out
    assert [text[:3] for text in ended.err.splitlines() if text[1:3] == "/5"] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert f"no vector ships for {model}" in ended.err and "line 8 left out: Cyrillic" in ended.err
    stamps = {path: path.stat().st_mtime_ns for path in [folder / "delta.safetensors", *folder.rglob("*.flac")]}
    again = asrlife(*line, "--json").json()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again["delta"] == "domains/ward/delta.safetensors" and again["columns"] == ["unadapted", "synthetic"]
    assert set(again["axes"]) == {"reliability", "locality"} and again["axes"]["reliability"]["synthetic"]["n"] == again["splits"]["test"]
    heard = asrlife("transcribe", next((folder / "speech/audio").glob("test-*")), "--model", model, "--delta", "ward", "--adapt", "none")
    assert heard.code == 0
    scored = asrlife(
        "evaluate", folder / "speech/transcripts.jsonl", "--split", "test", "--model", model, "--delta", "ward", "--json"
    ).json()
    rates = again["axes"]["reliability"]
    assert [run["wer"] for run in scored["runs"]] == [rates["unadapted"]["wer"], rates["synthetic"]["wer"]]


def test_every_line_has_its_fate_and_no_good_one_is_lost(asrlife, notes: Path, model: Path, manifest: Path) -> None:
    found = asrlife("domain", "--text", notes, "--model", model, "--general", manifest, *QUICK, "--json").json()
    account = json.loads(Path("domains/notes/speech/lines.json").read_text())
    lines = notes.read_text().split("\n")[:-1]
    fates = {fate["line"]: fate for fate in account["fates"]}
    assert list(fates) == list(range(1, len(lines) + 1)) and found["text"]["lines"] == len(lines)
    assert all(fates[number]["verdict"] == "used" for number, text in enumerate(lines, 1) if text in GOOD and number % 2)
    why = {number: "; ".join(fates[number]["why"]) for number in fates}
    assert why[2] == "is empty" and "emoji" in why[4] and "Cyrillic" in why[8] and "is the same as line 1" in why[14]
    assert fates[10]["verdict"] == "left out" and fates[12]["verdict"] == "changed" and "cut into pieces" in why[6]
    rows = [json.loads(row) for row in Path("domains/notes/speech/transcripts.jsonl").read_text().splitlines()]
    assert {row["line"] for row in rows} == {number for number, fate in fates.items() if fate["sentences"]}
    page = Path("domains/notes/report.html").read_text()
    assert "Cyrillic letters" in page and "is the same as line 1" in page and "<script" not in page and "http" not in page
    voices = {part: {row["speaker"] for row in rows if row["split"] == part} for part in ("train", "dev", "test")}
    texts = {part: {row["text"] for row in rows if row["split"] == part} for part in ("train", "dev", "test")}
    assert not voices["train"] & (voices["test"] | voices["dev"]) and not texts["train"] & (texts["test"] | texts["dev"])


def test_a_vector_is_added_as_its_card_says_and_real_speech_is_judged(
    asrlife, notes: Path, model: Path, manifest: Path, recordings: Path, tmp_path: Path
) -> None:
    given = vector(model, tmp_path / "mine.safetensors", scale=0.5)
    line = ["domain", "--text", notes, "--model", model, "--general", manifest, "--real", recordings, "--syn2real", given, *QUICK]
    found = asrlife(*line, "--name", "a", "--json").json()
    assert found["columns"] == ["unadapted", "synthetic", "+ Syn-to-Real"] and found["generality_measured"]
    assert found["syn2real"]["scale"] == 0.5 and found["syn2real"]["why"] == "of the vector's card"
    assert found["axes"]["generality"]["unadapted"]["n"] == 2  # the split test alone
    final, tuned = file.load(Path("domains/a/delta.safetensors")), file.load(Path("domains/a/work/synthetic.safetensors"))
    wanted = tuned + file.load(given) * 0.5
    assert final.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(final.tensors[name].dense(), wanted.tensors[name].dense()) for name in wanted.tensors)
    assert [parent["method"] for parent in final.note["parents"]] == ["tune", "difference"] and final.note["scale"] == 0.5
    assert set(final.note["scores"]) == {"reliability", "generality", "locality"}
    asked = asrlife(*line, "--name", "b", "--scale", 0.125, "--json").json()
    assert asked["syn2real"]["scale"] == 0.125
    probed = asrlife(*line, "--name", "c", "--real-dev", recordings, "--json").json()["syn2real"]
    assert len(probed["probes"]) == 7 and probed["probes"][str(probed["scale"])] == min(probed["probes"].values())
    without = asrlife(*line[: -len(QUICK) - 2], *QUICK, "--no-syn2real", "--name", "d", "--json").json()
    assert without["syn2real"] is None and without["columns"] == ["unadapted", "synthetic"]


def test_the_packaged_vector_is_found_by_the_weights(
    asrlife, notes: Path, model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asrlife.models import load as loading

    (tmp_path / "assets" / "other").mkdir(parents=True)
    vector(model, tmp_path / "assets" / "other" / "syn2real.safetensors")
    monkeypatch.setattr(loading, "ASSETS", tmp_path / "assets")
    found = asrlife("domain", "--text", notes, "--model", model, "--general", manifest, *QUICK, "--json").json()
    assert found["syn2real"]["origin"] == "packaged"
    assert (found["syn2real"]["scale"], found["syn2real"]["why"]) == (0.2, "the usual one")


def test_entities_come_along_and_are_counted(asrlife, notes: Path, model: Path, manifest: Path) -> None:
    drugs = ["warfarin", "aspirin", "digoxin", "heparin", "insulin", "morphine", "atropine", "codeine", "ibuprofen", "lithium"]
    rows = [{"text": f"give {drug}", "entities": [{"label": "drug", "text": drug, "start": 1, "end": 2}]} for drug in drugs]
    notes.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ["domain", "--text", notes.with_suffix(".jsonl"), "--model", model, "--general", manifest, *QUICK]
    assert "Entities recalled (%), reliability" in asrlife(*line).out
    score = asrlife(*line, "--json").json()["axes"]["reliability"]["unadapted"]["entities"]
    assert score["said"] == 2 and list(score["labels"]) == ["drug"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", "few.txt"], "few.txt: 9 different sentences can be read aloud, and a domain needs 10 at least"),
        (["--text", "gone.txt"], "gone.txt: no such file"),
        (["--real", "gone.jsonl"], "--real: gone.jsonl: no such file"),
        (["--real-dev", "gone.jsonl"], "--real-dev: gone.jsonl: no such file"),
        (["--general", "gone.jsonl"], "--general: gone.jsonl: no such file"),
        (["--real", "train.jsonl"], "no utterances of split 'test'; splits: train"),
        (["--real", "{manifest}", "--real-dev", "{manifest}"], "--real-dev: 3 of its recordings are in the test"),
        (["--syn2real", "gone.safetensors"], "gone.json cannot be read"),
        (["--syn2real", "other.safetensors"], "was made for base 0123456789ab, and"),
        (["--syn2real", "{manifest}"], "the name of a delta file ends in .safetensors"),
        (["--syn2real", "other.safetensors", "--no-syn2real"], "give one of them"),
        (["--syn2real", "much.safetensors"], "the card of the Syn-to-Real vector has the scale 'much'"),
        (["--scale", "nan"], "--scale nan: give a finite number"),
        (["--real", "silent.jsonl"], "silent.jsonl: nothing to judge on: no utterance has words"),
        (["--model", "embedded:lm"], "embedded:lm is a language model: a domain needs a recogniser"),
        (["--voice", "en-us+f4"], "voice en-us+f4 reads what is learnt and what is tested"),
        (["--voice", "en-us+f77"], "no variant 'f77'"),
        (["--scope", "encodr"], "there is no 'encodr'"),
        (["--keep", "ewc:1;data=gone.jsonl"], "gone.jsonl: no such file"),
        (["--set", "patiance=1"], "unknown setting 'patiance'; did you mean 'patience'?"),
        (["--name", "a/b"], "--name 'a/b': use letters"),
        (["--augment", "loud"], "loud"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_nothing_is_written(
    asrlife, notes: Path, model: Path, manifest: Path, options: list[str], words: str
) -> None:
    Path("few.txt").write_text("\n".join(GOOD[:9]))
    Path("train.jsonl").write_text(json.dumps({"id": "a", "audio": str(manifest), "text": "a", "split": "train"}) + "\n")
    file.save(Delta("0123456789abcdef", {"lm_head.bias": Dense(torch.zeros(30))}), Path("other.safetensors"))
    vector(model, Path("much.safetensors"), scale="much")
    sound = json.loads(manifest.read_text().splitlines()[0])["audio"]
    Path("silent.jsonl").write_text(json.dumps({"id": "a", "audio": str(manifest.parent / sound), "text": "(laughs)"}) + "\n")
    given = [text.replace("{manifest}", str(manifest)) for text in options]
    own = [] if "--text" in options else ["--text", notes]
    own += [] if "--model" in options else ["--model", model]
    ended = asrlife("domain", *own, *QUICK, *given)
    assert (ended.code, ended.out) == (2, "") and words in ended.err, ended.err
    assert ended.err.count("\n") == 1 and not Path("domains").exists()


def test_other_inputs_are_told_and_refused_until_fresh(asrlife, notes: Path, model: Path, manifest: Path) -> None:
    line = ["domain", "--text", notes, "--model", model, "--general", manifest, *QUICK]
    assert asrlife(*line).code == 0
    before = Path("domains/notes/delta.safetensors").read_bytes()
    assert "steps was 2 and is 3" in asrlife(*line, "--steps", 3).err
    assert "--seed was 0 and is 1" in asrlife(*line, "--seed", 1).err
    notes.write_text(notes.read_text() + "one line more\n")
    changed = asrlife(*line)
    assert changed.code == 2 and "domains/notes was made otherwise (--text has changed): choose another --name" in changed.err
    assert Path("domains/notes/delta.safetensors").read_bytes() == before
    fresh = asrlife(*line, "--fresh", "--json").json()
    assert fresh["text"]["lines"] == 25 and Path("domains/notes/delta.safetensors").read_bytes() != before


def test_what_is_only_judged_on_may_change(asrlife, notes: Path, model: Path, manifest: Path, recordings: Path) -> None:
    line = ["domain", "--text", notes, "--model", model, "--general", manifest, *QUICK]
    assert not asrlife(*line, "--json").json()["generality_measured"]
    before = Path("domains/notes/delta.safetensors").read_bytes()
    assert asrlife(*line, "--real", recordings, "--json").json()["generality_measured"]
    assert Path("domains/notes/delta.safetensors").read_bytes() == before
    assert "generality" in json.loads(Path("domains/notes/delta.json").read_text())["scores"]


KILLER = """
import json, os, signal, sys

import accelerate, asrlife.recipe.domain.make, asrlife.recipe.domain.report, transformers  # once for all stages
from asrlife.cli import main
from asrlife.delta import file
from asrlife.methods.tune import checkpoint
from asrlife.recipe import speech
from asrlife.recipe.domain import judge, make, vector

def killing(module, name, calls, after, when=lambda *given: True):
    inner, left = getattr(module, name), [calls]
    def outer(*given, **named):
        left[0] -= when(*given)
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = inner(*given, **named)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(module, name, outer)

STAGES = {
    "speech": lambda: killing(speech, "read_one", 5, False),
    "tuning": lambda: killing(checkpoint, "write", 2, True),
    "scale": lambda: killing(vector, "keep", 3, True),
    "judging": lambda: killing(judge, "keep", 4, False),
    "card": lambda: killing(file, "atomic", 1, False, lambda path, *mode: path.name == "delta.json"),
    "report": lambda: killing(make, "_report", 1, False),
    "none": lambda: None,
}
for stage in STAGES:
    child = os.fork()
    if child == 0:
        STAGES[stage]()
        os._exit(main(sys.argv[1:]))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    files = [path for path in sys.stdin.readline().split() if os.path.exists(path)] if stage != "none" else []
    print(json.dumps([stage, ended, files]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # seven runs, where others may want the processor too
def test_killed_in_the_middle_of_every_stage_it_ends_with_the_same_bytes(
    asrlife, notes: Path, model: Path, manifest: Path, recordings: Path, tmp_path: Path
) -> None:
    given = vector(model, tmp_path / "mine.safetensors")
    line = ["domain", "--text", notes, "--model", model, "--general", manifest, "--real", recordings, "--real-dev", recordings]
    line += ["--syn2real", given, *QUICK, "--steps", 6, "--set", "every=1"]
    assert asrlife(*line, "--name", "whole").code == 0
    whole, cut = Path("domains/whole"), Path("domains/cut")
    left = ["plan.json", "work/synthetic.checkpoint.safetensors", "work/scales.json", "work/heard", "delta.safetensors", "delta.json"]
    asked = "".join(f"{cut / name} {cut / 'report.html'}\n" for name in left)
    command = [sys.executable, "-c", KILLER, *map(str, line), "--name", "cut"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    ended = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("[")]
    assert [row[1] for row in ended] == [-signal.SIGKILL] * 6 + [0], done.stderr
    assert [row[2] for row in ended[:6]] == [[str(cut / name)] for name in left]  # and no report yet
    assert (cut / "delta.safetensors").read_bytes() == (whole / "delta.safetensors").read_bytes()
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (whole, cut))
    assert one["utterances"] == two["utterances"] and one["domain"]["axes"] == two["domain"]["axes"]
    assert not list(cut.rglob("*checkpoint*"))
