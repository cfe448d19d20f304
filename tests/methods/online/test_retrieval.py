from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.methods.online import neighbours
from asrlife.methods.online.fold import run
from asrlife.methods.online.neighbours import Index, marked
from asrlife.methods.online.retrieval import Retrieval
from asrlife.models.load import load

Stream = Callable[[int], list[Utterance]]
TEXTS = ("ab", "cab", "a bad cab", "dab")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "asrlife" / "retrieval"


@pytest.fixture
def manifest(tmp_path: Path, stream: Stream) -> Path:
    """Four labelled utterances, of which the streams of the tests say the first three as well."""
    spoken = [replace(utterance, text=text) for utterance, text in zip(stream(4), TEXTS, strict=True)]
    Corpus(tuple(replace(one, id=f"c-{one.id}") for one in spoken)).write(tmp_path / "corpus.jsonl")
    return tmp_path / "corpus.jsonl"


@pytest.fixture
def embedded(ctc: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many utterances were embedded at a time."""
    calls: list[int] = []
    true = type(ctc).embed
    monkeypatch.setattr(type(ctc), "embed", lambda self, batch: (calls.append(len(batch.lengths)), true(self, batch))[1])
    return calls


def read(model: Any, manifest: Path, split: str = "", kept: bool = True) -> Index:
    return neighbours.read(model, model.fingerprint(), manifest, split, kept)


def equal(one: Index, two: Index) -> bool:
    same = torch.equal(one.vectors, two.vectors) and torch.equal(one.marks, two.marks)
    return same and [u.id for u in one.utterances] == [u.id for u in two.utterances]


def test_the_nearest_by_hand() -> None:
    silence = Waveform(torch.zeros(8).numpy(), 16_000)
    spoken = tuple(Utterance(name, silence, "a") for name in "abcd")
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    index = Index(spoken, vectors, torch.arange(128, dtype=torch.uint8).view(4, 32))
    other = torch.full((32,), 255, dtype=torch.uint8)
    found = index.nearest(torch.tensor([30.0, 40.0]), 3, "new", other)
    # cosines with (0.6, 0.8): 0.6, 1, 0.8, -0.6
    assert [(one.id, round(cosine, 6)) for one, cosine in found] == [("b", 1.0), ("c", 0.8), ("a", 0.6)]
    for own, mark in (("b", other), ("b#2", other), ("new", index.marks[1])):
        assert [one.id for one, _ in index.nearest(torch.tensor([3.0, 4.0]), 9, own, mark)] == ["c", "a", "d"]
    assert index.nearest(torch.tensor([torch.nan, 1.0]), 3, "new", other) == []


def test_an_utterance_never_finds_itself(ctc: Any, manifest: Path, stream: Stream) -> None:
    method = Retrieval(corpus=str(manifest), neighbours=4, steps=1)
    state = method.start(ctc)
    for place, utterance in enumerate(stream(4)):
        _, _, (event,) = method.step(ctc, state, utterance)  # its sound is in the corpus under another name
        assert sorted(str(event.detail["neighbours"]).split()) == [f"c-u{other}" for other in range(4) if other != place]
    changed = Waveform(stream(1)[0].waveform().samples * 0.5, 16_000)
    for name, count in (("c-u0", 3), ("c-u0#2", 3), ("c-u9", 4)):
        _, _, (event,) = method.step(ctc, state, Utterance(name, changed))  # another sound
        assert len(str(event.detail["neighbours"]).split()) == count


def test_the_same_sound_in_another_format_has_the_same_mark(tmp_path: Path) -> None:
    waveform = Waveform(torch.linspace(-0.9, 0.9, 999).numpy(), 16_000).quantised()
    for name in ("a.wav", "a.flac"):
        write(tmp_path / name, waveform)
    one, two = (marked(Utterance("a", tmp_path / name).waveform()) for name in ("a.wav", "a.flac"))
    assert torch.equal(one, two)
    assert not torch.equal(one, marked(Waveform(waveform.samples[1:], 16_000)))


def test_the_only_utterance_has_no_neighbours(ctc: Any, tmp_path: Path, stream: Stream) -> None:
    Corpus((replace(stream(1)[0], text="ab"),)).write(tmp_path / "one.jsonl")
    method = Retrieval(corpus=str(tmp_path / "one.jsonl"))
    hypothesis, _, (event,) = method.step(ctc, method.start(ctc), stream(1)[0])
    assert (event.kind, event.detail["reason"]) == ("skipped", "neighbours")
    assert hypothesis == ctc.decode(ctc.prepare([stream(1)[0].waveform()]))[0]


def test_an_index_is_computed_once(ctc: Any, manifest: Path, cache: Path, embedded: list[int]) -> None:
    first = read(ctc, manifest)
    assert (sum(embedded), len(list(cache.iterdir()))) == (4, 1)
    assert equal(read(ctc, manifest), first)
    assert sum(embedded) == 4
    assert torch.allclose(first.vectors.norm(dim=1), torch.ones(4))


def test_the_methods_of_one_corpus_share_it(ctc: Any, manifest: Path, stream: Stream, embedded: list[int]) -> None:
    one, two = (Retrieval(corpus=str(manifest), steps=1, cache=False, neighbours=k) for k in (1, 2))
    state = one.start(ctc)
    one.step(ctc, state, stream(1)[0])
    two.step(ctc, state, stream(1)[0])  # a stream that goes on from its bytes has no start
    assert embedded == [4, 1, 1]


@pytest.mark.parametrize("damage", ["cut", "other byte", "other file", "no note"])
def test_a_damaged_cache_is_made_again(
    ctc: Any, manifest: Path, cache: Path, embedded: list[int], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = read(ctc, manifest)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    empty = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"
    spoilt = {"cut": data[:-9], "other byte": data[:-1] + bytes([data[-1] ^ 1]), "other file": b"nothing", "no note": empty}
    path.write_bytes(spoilt[damage])
    assert equal(read(ctc, manifest), first)
    assert sum(embedded) == 8
    assert "is damaged" in caplog.text
    assert path.read_bytes() == data


def test_what_changes_makes_the_index_again(ctc: Any, manifest: Path, cache: Path, embedded: list[int]) -> None:
    first = read(ctc, manifest)
    os.utime(Corpus.read(manifest).utterances[0].audio, ns=(1, 1))  # type: ignore[arg-type]
    read(ctc, manifest)
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:3]))
    assert [one.text for one in read(ctc, manifest).utterances] == list(TEXTS[:3])
    neighbours.read(ctc, "the weights of another model", manifest, "", True)
    assert embedded == [4, 4, 3, 3]
    assert len(list(cache.iterdir())) == 4
    assert len(first.utterances) == 4


def test_the_cache_can_be_left_off_and_may_be_unwritable(
    ctc: Any, manifest: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read(ctc, manifest, kept=False)
    assert not cache.exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(manifest))  # a file cannot hold a folder
    assert len(read(ctc, manifest).utterances) == 4
    assert "cannot be kept" in caplog.text


def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "here"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert neighbours.folder() == tmp_path / ".cache" / "asrlife" / "retrieval"


def test_what_cannot_be_used_is_left_out(ctc: Any, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    rows = [{"id": "bad", "audio": "text.wav", "text": "a"}, {"id": "gone", "audio": "gone.wav", "text": "a"}]
    first = Corpus.read(manifest).utterances[0]
    rows += [{"id": "unlabelled", "audio": f"audio/{first.id}.flac"}, {"id": "empty", "audio": f"audio/{first.id}.flac", "text": " "}]
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + manifest.read_text())
    assert [one.id for one in read(ctc, manifest).utterances] == [f"c-u{place}" for place in range(4)]
    assert "bad" in caplog.text and "gone.wav" in caplog.text
    assert [one.id for one in read(ctc, manifest).utterances] == [f"c-u{place}" for place in range(4)]


def test_a_split_is_all_that_is_seen(ctc: Any, manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    splits = ("train", "test", "train", "dev")
    manifest.write_text("".join(json.dumps({**row, "split": split}) + "\n" for row, split in zip(rows, splits, strict=True)))
    assert [one.id for one in read(ctc, manifest, "train").utterances] == ["c-u0", "c-u2"]
    assert len(read(ctc, manifest).utterances) == 4


@pytest.mark.parametrize("rows", ['{"id": "a", "audio": "text.wav"}', '{"id": "a", "audio": "text.wav", "text": "a"}'])
def test_a_useless_corpus_is_refused(ctc: Any, tmp_path: Path, rows: str) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(InputError, match="no utterance has a text|none of 1 labelled sound files"):
        Retrieval(corpus=str(tmp_path / "rows.jsonl")).start(ctc)


def test_no_corpus_and_no_loss_are_told_at_the_start(ctc: Any, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--set retrieval\.corpus="):
        Retrieval().start(ctc)
    with pytest.raises(InputError, match="no such file"):
        Retrieval(corpus="nowhere.jsonl").start(ctc)
    monkeypatch.setattr(type(ctc), "capabilities", frozenset({"emissions"}))
    with pytest.raises(InputError, match="no supervised loss"):
        Retrieval(corpus=str(manifest)).start(ctc)


def test_steps_learn_what_the_neighbours_say_and_it_is_forgotten(ctc: Any, manifest: Path, stream: Stream) -> None:
    method = Retrieval(corpus=str(manifest), lr=3e-3, steps=12)
    before = fingerprint(ctc.module)
    found = {}
    for utterance, hypothesis, (event,) in run(method, ctc, stream(3)):
        assert event.kind == "stepped"
        assert float(event.detail["loss_after"]) < 0.7 * float(event.detail["loss_before"])
        found[utterance.id] = hypothesis
    source = {one.id: ctc.decode(ctc.prepare([one.waveform()]))[0] for one in stream(3)}
    assert found != source
    assert found == {utterance.id: hypothesis for utterance, hypothesis, _ in run(method, ctc, stream(3)[::-1])}
    assert fingerprint(ctc.module) == before


def test_streams_together_are_streams_alone(ctc: Any, manifest: Path, stream: Stream) -> None:
    method = Retrieval(corpus=str(manifest), steps=2, scope="norms")
    state = method.start(ctc)
    assert method.together(ctc, [state] * 3, stream(3)) == [method.step(ctc, state, utterance) for utterance in stream(3)]


def test_a_text_that_cannot_be_spelt_teaches_nothing(ctc: Any, manifest: Path, stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    manifest.write_text(manifest.read_text().replace('"text": "', '"text": "7 '))
    method = Retrieval(corpus=str(manifest))
    hypothesis, _, (event,) = method.step(ctc, method.start(ctc), stream(1)[0])
    assert (event.kind, event.detail["reason"]) == ("skipped", "exercise")
    assert "cannot spell '7'" in caplog.text
    assert hypothesis == ctc.decode(ctc.prepare([stream(1)[0].waveform()]))[0]


def test_what_is_not_finite_is_dropped(ctc: Any, manifest: Path, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    true = type(ctc).loss
    monkeypatch.setattr(type(ctc), "loss", lambda *arguments: true(*arguments) * torch.nan)
    method = Retrieval(corpus=str(manifest), steps=2)
    hypothesis, _, (event,) = method.step(ctc, method.start(ctc), stream(1)[0])
    assert (event.kind, event.detail["reason"]) == ("skipped", "diverged")
    assert hypothesis == ctc.decode(ctc.prepare([stream(1)[0].waveform()]))[0]


def test_whisper_learns_from_neighbours(whisper_folder: Path, manifest: Path, stream: Stream) -> None:
    model: Any = load(whisper_folder)
    before = fingerprint(model.module)
    method = Retrieval(corpus=str(manifest), lr=1e-2, steps=12, scope="norms+mlp")
    state = method.start(model)
    hypothesis, after, (event,) = method.step(model, state, stream(1)[0])
    assert event.kind == "stepped", event
    assert float(event.detail["loss_after"]) < 0.9 * float(event.detail["loss_before"])
    assert hypothesis.text != event.detail["before"]
    assert fingerprint(model.module) == before and after.digest() == state.digest()
