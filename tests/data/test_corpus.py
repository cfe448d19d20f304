from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write(tmp_path / "audio" / f"{name}.flac", Waveform(np.sin(np.arange(4_000) / 9) / 3, 16_000))
    return tmp_path


def manifest(folder: Path, *lines: str | dict[str, object]) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


A = {"id": "a", "audio": "audio/a.flac", "text": "hello", "split": "test", "dur": 0.25, "words": [[0, 1, "hello"]]}
B = {"id": "b", "audio": "audio/b.flac", "text": "there", "split": "dev", "duration": 0.25, "speaker": "s", "domain": "d"}


def test_rows_are_read_with_paths_from_the_manifest_and_other_keys_ignored(folder: Path) -> None:
    corpus = Corpus.read(manifest(folder, A, "", B))
    assert [u.id for u in corpus] == ["a", "b"] and len(corpus) == 2
    first, second = corpus
    assert (first.text, first.split, first.duration, first.speaker) == ("hello", "test", 0.25, None)
    assert (second.duration, second.speaker, second.domain, second.origin) == (0.25, "s", "d", "real")
    assert first.waveform(8_000).duration == 0.25
    assert corpus.problems == ()


def test_a_missing_audio_file_costs_its_utterance_alone(folder: Path) -> None:
    path = manifest(folder, A, {**B, "audio": "audio/nowhere.flac"})
    corpus = Corpus.read(path)
    assert [u.id for u in corpus] == ["a"]
    (problem,) = corpus.problems
    assert problem.startswith(f"{path}:2: b: no audio file") and "nowhere.flac" in problem
    assert len(Corpus.read(path, check=False)) == 2


@pytest.mark.parametrize(
    ("lines", "causes"),
    [
        ((A, '{"id": "b", "audio"'), ["m.jsonl:2", "broken line", "column"]),
        ((A, "[1, 2]"), ["m.jsonl:2", "broken line (a list"]),
        ((A, {"audio": "audio/b.flac"}), ["m.jsonl:2", '"id" is missing']),
        ((A, {"id": "b"}), ["m.jsonl:2", '"audio" is missing']),
        ((A, {**B, "text": 7}), ["m.jsonl:2", '"text" is 7']),
        ((A, {**B, "duration": "long"}), ["m.jsonl:2", "'long'"]),
        ((A, {**B, "duration": float("nan")}), ["m.jsonl:2", "nan"]),
        ((A, {**B, "origin": "dream"}), ["m.jsonl:2", "'dream'"]),
        ((A, "", {**B, "id": "a"}), ["m.jsonl:3", "'a' is already on line 1"]),
        (("",), ["m.jsonl", "no utterances"]),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named_with_its_line(folder: Path, lines: tuple[str, ...], causes: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Corpus.read(manifest(folder, *lines))
    for cause in causes:
        assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_manifest_at_all_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Corpus.read(folder / "nowhere.jsonl")
    with pytest.raises(InputError, match="is no UTF-8"):
        Corpus.read(folder / "audio" / "a.flac")
    with pytest.raises(InputError, match="is a folder; name one manifest"):
        Corpus.read(folder)


def test_splits_and_limits(folder: Path) -> None:
    corpus = Corpus.read(manifest(folder, A, B))
    assert [u.id for u in corpus.split("dev")] == ["b"]
    assert [u.id for u in corpus.limit(1)] == ["a"]
    with pytest.raises(InputError, match="no utterances of split 'train'; splits: dev, test"):
        corpus.split("train")
    with pytest.raises(InputError, match="at least 1"):
        corpus.limit(0)


ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
texts = st.none() | st.text(max_size=20)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(ids, texts, texts, st.sampled_from(["real", "synthetic"])), min_size=1, max_size=4, unique_by=lambda row: row[0]))
def test_a_corpus_survives_writing_and_reading(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    sounds = [Waveform(np.full(40 + n, 0.25), 16_000) for n in range(len(rows))]
    made = [
        Utterance(name, sound, text, speaker, "domain", origin, "dev")  # type: ignore[arg-type]
        for (name, text, speaker, origin), sound in zip(rows, sounds, strict=True)
    ]
    Corpus(tuple(made)).write(folder / "m.jsonl")
    read = Corpus.read(folder / "m.jsonl")
    assert read.problems == ()
    for before, after in zip(made, read, strict=True):
        assert [getattr(before, k) for k in ("id", "text", "speaker", "domain", "origin", "split")] == [
            getattr(after, k) for k in ("id", "text", "speaker", "domain", "origin", "split")
        ]
        assert np.array_equal(after.waveform().samples, before.waveform().samples)


def test_files_are_named_from_the_new_manifest_and_not_copied(folder: Path) -> None:
    corpus = Corpus.read(manifest(folder, A))
    corpus.write(folder / "deeper" / "n.jsonl")
    assert json.loads((folder / "deeper" / "n.jsonl").read_text())["audio"] == "../audio/a.flac"
    assert Corpus.read(folder / "deeper" / "n.jsonl").problems == ()
    assert len(list(folder.rglob("*.flac"))) == 2


def test_the_shared_manifests_are_read(shared: Path) -> None:
    grid = Corpus.read(shared / "speech-grid" / "transcripts.jsonl")
    assert grid.problems == () and len(grid) == 754
    assert len(grid.split("test")) == 160
