"""A text file becomes a corpus: whatever the number of processes, wherever it was killed, with an account of every line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.recipe import reading
from asrlife.recipe.aloud import Wish, alphabet, synthesise
from asrlife.recipe.speech import Diversity, Reading, read_aloud, readings
from asrlife.text.entity import Entity
from asrlife.text.prepare import Rules, Sentence

NOTES = "Give 5 mg of warfarin.\n\n🙂\nПривет\ngive five milligrams of warfarin\nBP is 120/80. He feels well.\n"
RATE = 16_000
WORDS = "red green blue white grey pink brown black".split()
PICKY = """
import sys, wave
if "two" in sys.argv[1]:
    sys.exit("no two")
with wave.open(sys.argv[2], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(b"\\x00\\x10\\x00\\xf0" * 4000)
"""
DEADLY = """
import os, pathlib, signal
if b"multiprocessing" in pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_bytes():
    os.kill(os.getppid(), signal.SIGKILL)
"""
MANY = [f"{a} {b} light" for a in WORDS for b in WORDS if a != b]


@contextmanager
def bar(_: str, __: int | None) -> Iterator[object]:
    yield lambda: None


def stamp(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text(NOTES)
    return tmp_path / "notes.txt"


def test_every_line_is_in_the_account_and_what_was_made_is_in_the_manifest(notes: Path, tmp_path: Path) -> None:
    made = synthesise(Wish(notes, tmp_path / "out", voices=("en-us+f3", "en-us+m3")), bar)
    account = json.loads((tmp_path / "out" / "lines.json").read_text())
    verdicts = ["changed", "left out", "left out", "left out", "left out", "changed"]
    assert [fate["verdict"] for fate in account["fates"]] == verdicts and [fate["line"] for fate in account["fates"]] == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in made.manifest.read_text().splitlines()]
    assert [(row["text"], row["line"]) for row in rows] == [
        ("Give five milligrams of warfarin.", 1), ("BP is one hundred and twenty over eighty.", 6), ("He feels well.", 6),
    ]  # fmt: skip
    table = (tmp_path / "out" / "lines.tsv").read_text().splitlines()
    assert len(table) == 7 and table[4] == "4\tleft out\t0\tCyrillic letters (6 of 6, such as 'П')\tПривет"
    assert made.to_json()["text"] == {"lines": 6, "used": 0, "changed": 2, "left out": 4, "sentences": 3}


def test_a_limit_and_readings_that_fail_are_in_the_account(tmp_path: Path) -> None:
    (tmp_path / "four.txt").write_text("one\ntwo. three.\nfour\n")
    (tmp_path / "picky.py").write_text(PICKY)
    voice = f"command:{sys.executable} {tmp_path / 'picky.py'} {{text}} {{out}}"
    made = synthesise(Wish(tmp_path / "four.txt", tmp_path / "out", (voice,), most=2), bar)
    account = json.loads((tmp_path / "out" / "lines.json").read_text())
    assert [(f["line"], f["verdict"], f["sentences"]) for f in account["fates"]] == [(1, "used", 1), (2, "changed", 1), (3, "left out", 0)]
    assert account["fates"][2]["why"] == ["comes after the first 2 sentences"]
    assert [(one["line"], "no two" in one["why"]) for one in account["failed"]] == [(2, True)]
    assert [u.text for u in Corpus.read(made.manifest)] == ["one"] and "no two" in made.page.read_text()
    (tmp_path / "four.txt").write_text("two\n")
    with pytest.raises(InputError, match="no reading succeeded; the first: command:.*no two"):
        synthesise(Wish(tmp_path / "four.txt", tmp_path / "out", (voice,)), bar)


def test_the_page_has_a_player_for_each_clip_and_nothing_from_elsewhere(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"text": "<b>stop</b> warfarin & go", "entities": [{"label": "drug", "text": "warfarin", "start": 1, "end": 2}]})
        + "\n\n"
    )
    made = synthesise(Wish(tmp_path / "x.jsonl", tmp_path / "out", diversity=Diversity(clips=2, augment=("noise",))), bar)
    page = made.page.read_text()
    files = [json.loads(line)["audio"] for line in made.manifest.read_text().splitlines()]
    assert len(files) == 2 and all(f'src="{file}"' in page for file in files)
    assert '<mark title="drug">warfarin</mark>' in page and "<b>" not in page
    assert "left out" in page and "is empty" in page
    assert "http:" not in page and "https:" not in page and str(tmp_path) not in page


def test_a_model_keeps_transcripts_to_its_letters_while_voices_read_the_text(notes: Path, tmp_path: Path) -> None:
    made = synthesise(Wish(notes, tmp_path / "out", model="embedded:ctc"), bar)
    row = json.loads(made.manifest.read_text().splitlines()[1])
    assert row["text"] == "bp is one hundred and twenty over eighty" and row["said"] == "BP is one hundred and twenty over eighty."
    assert alphabet("embedded:whisper") is None


def test_clips_of_a_sentence_have_voices_of_their_own_and_never_change_the_first() -> None:
    voices = ["en-us+f1", "en-us+f2", "en-us+f3"]
    plans = readings(["one", "two"], voices, 3, Diversity(clips=4))
    assert [plan.text for plan in plans] == ["one"] * 4 + ["two"] * 4
    assert {plan.voice for plan in plans[:3]} == set(voices) and len({plan.name for plan in plans}) == 8
    assert plans[::4] == readings(["one", "two"], voices, 3)


def test_ranges_are_kept_and_one_number_is_a_range() -> None:
    plans = readings(MANY, seed=1, diversity=Diversity(rate=(100, 110), pitch=(7, 7)))
    assert {plan.prosody.pitch for plan in plans} == {7}
    assert {plan.prosody.words_per_minute for plan in plans} == set(range(100, 111))


def test_names_change_with_what_changes_the_sound() -> None:
    plain = readings(["one two"], ["en-us"])[0]
    others = [
        readings([Sentence("one two", "One, two!", 4)], ["en-us"])[0],
        readings(["one two"], ["en-gb"])[0],
        readings(["one two"], ["en-us"], diversity=Diversity(augment=("speed", "noise", "reverb")))[0],
    ]
    assert len({plan.name for plan in [plain, *others]}) == 4
    assert readings([Sentence("one two", "one two", 9, (Entity("x", "one", 0, 1),))], ["en-us"])[0].name == plain.name


@pytest.mark.slow
def test_processes_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asrlife.recipe.speech._SHARE", 15)
    write(tmp_path / "hiss.wav", Waveform(0.1 * np.random.default_rng(0).standard_normal(RATE), RATE))  # made noise takes seconds
    changes = Diversity(augment=("speed", "noise", "reverb"), noise=str(tmp_path / "hiss.wav"))
    plans = readings(MANY[:30], ["en-us+f3", "en-us+m3"], 2, changes)
    ticks: list[int] = []
    for workers in (1, 2):
        read_aloud(plans, tmp_path / str(workers), lambda: ticks.append(1), workers)
    one, two = stamp(tmp_path / "1"), stamp(tmp_path / "2")
    assert one == two and len(one) == 31 and len(ticks) == 60


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("\n".join(MANY))
    command = [sys.executable, "-m", "asrlife", "synthesize", str(tmp_path / "many.txt"), str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    audio = tmp_path / "out" / "audio"
    deadline = time.monotonic() + 120
    while len(list(audio.glob("*.flac"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in audio.glob("*.flac")}
    assert 5 <= len(kept) < len(MANY) and not (tmp_path / "out" / "transcripts.jsonl").exists()
    assert all(reading.is_whole(path) for path in kept)
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == age for path, age in kept.items())
    assert len(Corpus.read(tmp_path / "out" / "transcripts.jsonl")) == len(MANY)
    plain = readings(MANY)
    read_aloud(plain, tmp_path / "again")
    assert {p.name: p.read_bytes() for p in (tmp_path / "again" / "audio").iterdir()} == {
        p.name: p.read_bytes() for p in audio.glob("*.flac")
    }


@pytest.mark.slow
def test_a_process_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asrlife.recipe.speech._SHARE", 15)
    (tmp_path / "deadly.py").write_text(DEADLY)
    plans = readings(MANY[:30], [f"command:{sys.executable} {tmp_path / 'deadly.py'} {{out}}"])
    with pytest.raises(InputError, match="was ended from outside; run it again, with fewer --workers"):
        read_aloud(plans, tmp_path / "out", workers=2)


def test_a_sound_that_was_cut_short_is_made_again_and_old_scraps_go(tmp_path: Path) -> None:
    plans = readings(["one two", "three four"])
    read_aloud(plans, tmp_path)
    before = stamp(tmp_path)
    path = tmp_path / plans[0].file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / plans[1].file).write_bytes(b"")
    scrap, fresh = (path.parent / f".{name}.flac.abc" for name in ("old", "new"))
    for file in (scrap, fresh):
        file.write_bytes(b"x")
    os.utime(scrap, (1, 1))
    read_aloud(plans, tmp_path)
    assert fresh.exists() and not scrap.exists()
    fresh.unlink()
    assert stamp(tmp_path) == before


def test_a_reading_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    plans = readings(["one", "...", "two"])
    failures: list[tuple[Reading, str]] = []
    manifest = read_aloud(plans, tmp_path, failed=lambda plan, why: failures.append((plan, why)))
    assert [u.text for u in Corpus.read(manifest)] == ["one", "two"]
    assert len(failures) == 1 and failures[0][0] == plans[1] and "nothing to say for '...'" in failures[0][1]
    with pytest.raises(InputError, match=r"nothing to say for '...'"):
        read_aloud(plans, tmp_path)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"voices": ("klingon*",)}, "no espeak-ng voice fits"),
        ({"voices": ("en-us+m99",)}, "no variant 'm99'"),
        ({"diversity": Diversity(augment=("echo",))}, "no augmentation is called 'echo'"),
        ({"rules": Rules("ru")}, "no line can be read aloud: 6 left out"),
        ({"column": "note"}, "has no column 'note'"),
        ({"model": "embedded:lm"}, "is a language model, not a recogniser"),
        ({"text": Path("gone.txt")}, "no such file"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    notes: Path, tmp_path: Path, wish: dict[str, object], message: str
) -> None:
    if "rules" in wish:
        notes.write_text("\n".join(["only english"] * 6))
    with pytest.raises(InputError, match=message):
        synthesise(Wish(**{"text": notes, "out": tmp_path / "out", **wish}), bar)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
