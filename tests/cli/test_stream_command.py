from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from asrlife.audio.read import read
from asrlife.cli import child
from asrlife.cli.stream import settings_of_stream
from asrlife.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with child.server("embedded:ctc", None, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


def test_a_manifest_goes_utterance_by_utterance(asrlife, server: str, manifest: Path) -> None:
    ended = asrlife("stream", manifest, "--server", server, "--adapt", "dsuta", "--set", "fast_steps=1", "--json")
    assert ended.code == 0
    document, sent = ended.json(), [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [spoken["id"] for spoken in document["utterances"]] == [row["id"] for row in sent]
    end = 0.0
    for spoken, row in zip(document["utterances"], sent, strict=True):
        assert set(spoken) == {"id", "final", "refined", "start", "end", "events"}
        assert spoken["start"] == pytest.approx(end, abs=0.01)
        end = spoken["end"]
        assert end - spoken["start"] == pytest.approx(row["duration"], abs=0.01)
        assert spoken["refined"] is not None and spoken["events"][0]["steps"] == 1
    assert document["text"] == " ".join(spoken["refined"] for spoken in document["utterances"] if spoken["refined"])


def test_a_sound_file_is_cut_by_the_server(asrlife, server: str, speech: list[Path]) -> None:
    ended = asrlife("stream", speech[0], "--server", server, "--json")
    assert ended.code == 0
    document = ended.json()
    assert document["utterances"] and all(
        set(spoken) == {"final", "refined", "start", "end", "events"} for spoken in document["utterances"]
    )
    assert all(spoken["refined"] is None and spoken["events"] == [] for spoken in document["utterances"])
    assert document["utterances"][-1]["end"] <= read(speech[0]).duration + 0.01


def test_lines_are_shown_with_their_times(asrlife, server: str, manifest: Path) -> None:
    ended = asrlife("stream", manifest, "--server", server)
    assert ended.code == 0 and not ended.err
    assert [line.split()[0] for line in ended.out.splitlines()][0] == "0.00" and len(ended.out.splitlines()) == 3


def test_a_bad_row_is_named_and_the_others_are_sent(asrlife, server: str, manifest: Path, tmp_path: Path) -> None:
    row = json.loads(manifest.read_text().splitlines()[0])
    (tmp_path / "text.wav").write_text("no sound")
    good, bad = {**row, "audio": str(manifest.parent / row["audio"])}, {**row, "id": "bad", "audio": "text.wav"}
    (tmp_path / "m.jsonl").write_text(f"{json.dumps(bad)}\n{json.dumps(good)}\n")
    ended = asrlife("stream", tmp_path / "m.jsonl", "--server", server, "--json")
    assert ended.code == 0
    assert [spoken["id"] for spoken in ended.json()["utterances"]] == [row["id"]]
    assert "text.wav: holds text" in ended.json()["problems"][0] and "text.wav: holds text" in ended.err
    (tmp_path / "m.jsonl").write_text(f"{json.dumps(bad)}\n")
    assert asrlife("stream", tmp_path / "m.jsonl", "--server", server, "--json").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapt", "sutta"], "sutta"),
        (["--adapt", "suta", "--set", "stepps=1"], "did you mean 'steps'"),
    ],
)
def test_what_the_server_refuses_is_one_line(asrlife, server: str, speech: list[Path], arguments: list[str], message: str) -> None:
    ended = asrlife("stream", speech[0], "--server", server, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err and ended.err.count("\n") == 1


def test_no_server_is_said_with_the_fix(asrlife, speech: list[Path]) -> None:
    ended = asrlife("stream", speech[0], "--server", "127.0.0.1:1")
    assert ended.code == 2 and "no server answers at 127.0.0.1:1; start one with `asrlife serve`" in ended.err


def test_settings_may_name_the_method() -> None:
    assert settings_of_stream("suta", ["suta.lr=0.1", "steps=2"]) == {"lr": "0.1", "steps": "2"}
    with pytest.raises(InputError, match="'dsuta' is not the method of this stream"):
        settings_of_stream("suta", ["dsuta.lr=0.1"])


def test_several_sources_are_streams_of_their_own(asrlife, server: str, manifest: Path, speech: list[Path]) -> None:
    ended = asrlife("stream", speech[0], speech[1], manifest, "--server", server, "--at-once", "2", "--json")
    assert ended.code == 0
    streams = ended.json()["streams"]
    assert [stream["source"] for stream in streams] == [str(speech[0]), str(speech[1]), str(manifest), str(manifest)]
    assert [len(stream["utterances"]) for stream in streams[2:]] == [2, 1]
    alone = asrlife("stream", speech[1], "--server", server, "--json").json()
    assert streams[1]["text"] == alone["text"]
    shown = asrlife("stream", *speech, "--server", server, "--at-once", "3").out.splitlines()
    assert sorted(line.split(":")[0] for line in shown) == ["1", "2", "3"]


def test_the_microphone_is_heard_until_it_is_interrupted(asrlife, server: str, monkeypatch: pytest.MonkeyPatch, speech: list[Path]) -> None:
    sound = read(speech[0]).samples

    class Source:
        def __init__(self, **_: object) -> None:
            self.at = 0

        def __enter__(self) -> Source:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, size: int) -> tuple[np.ndarray, bool]:
            piece, self.at = sound[self.at : self.at + size], self.at + size
            if self.at >= len(sound):
                os.kill(os.getpid(), signal.SIGINT)
            return np.pad(piece, (0, size - len(piece)))[:, None], False

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Source, PortAudioError=RuntimeError))
    ended = asrlife("stream", "mic", "--server", server, "--json")
    assert ended.code == 0 and ended.json()["text"] == asrlife("stream", speech[0], "--server", server, "--json").json()["text"]


def test_a_machine_without_a_microphone_says_so(asrlife, server: str, monkeypatch: pytest.MonkeyPatch, speech: list[Path]) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    ended = asrlife("stream", "mic", "--server", server)
    assert ended.code == 2 and "pip install 'asrlife[microphone]'" in ended.err and ended.err.count("\n") == 1
    assert "name it alone" in asrlife("stream", "mic", speech[0], "--server", server).err
