"""Benchmarks run as they stand; what they print is there and adds up."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def serve(monkeypatch):
    """What benchmarks/serve.py defines."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "serve.py"))


def ran(name: str, *options: str) -> str:
    done = subprocess.run([sys.executable, str(BENCHMARKS / name), *options], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py")))
def test_make_bench_can_run_it_without_arguments(script):
    usage = ran(script, "--help").split("\n\n")[0]
    optional = re.compile(r"\[[^\[\]]*\]")
    while optional.search(usage):
        usage = optional.sub("", usage)
    assert usage.split() == ["usage:", script]


@pytest.mark.slow
def test_edit_measures_itself_against_what_is_published_and_both_find_the_same():
    small = ("--width", "64", "--keys", "6", "--earlier", "9", "--edits", "3", "--loop", "2", "--threads", "1", "--repeats", "1")
    told = json.loads(ran("edit.py", *small, "--model", "embedded:lm", "--json"))
    assert [row["solve"] for row in told["solves"]] == ["memit", "alphaedit"]
    for row in told["solves"]:
        assert row["apart"] < 1e-10 and row["times"] == pytest.approx(row["dense_cpu_s"] / row["cpu_s"])
    (row,) = told["values"]
    assert row["edits"] == 3 and row["apart"] < 1e-2 and min(row[key] for key in row if key.endswith("_s")) > 0


@pytest.mark.slow
def test_serve_measures_itself_and_a_peer_on_the_same_streams():
    pytest.importorskip("pocketsphinx", reason="the peer is not installed")
    printed = ran("serve.py", "--adapt", "none", "--peer", "pocketsphinx-first-pass", "--streams", "2", "--seconds", "1", "--json")
    *_, told, few, many = map(json.loads, printed.splitlines())
    assert (
        [one["system"] for one in told["systems"]] == ["none", "pocketsphinx-first-pass"] and told["cores"] >= 1 and len(told["load"]) == 2
    )
    ours, theirs = (one["rows"][0] for one in told["systems"])
    for row in (ours, theirs):
        assert row["lost"] == [] and row["streams"] == 2 and row["finals"] >= 2
        assert row["final_ms"] == sorted(row["final_ms"]) and len(row["final_ms"]) == 3
        assert row["server_cpu_s"] > 0 and row["client_cpu_s"] > 0 and len(row["load"]) == 2
    assert ours["sound_s"] == theirs["sound_s"]
    assert few["chunks_per_s"] > 0 and many["chunks_per_s"] > 0 and many["streams"] == 128


def test_a_peer_that_is_not_installed_is_named_with_the_fix(serve, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pocketsphinx"):
        serve["peers"](["pocketsphinx"])
    assert serve["peers"](None) == [] and "pip install pocketsphinx" in capsys.readouterr().err
    assert serve["peers"](["none"]) == [] and capsys.readouterr().err == ""


def test_the_table_puts_systems_beside_each_other(serve):
    delays = {"partial_ms": None, "final_ms": [1, 2, 3], "speech_ms": [4, 5, 6], "refined_ms": None}
    row = {"lost": [], "wer": 1.0, "server_cpu_s": 2.0, "client_cpu_s": 1.0, "sound_s": 10.0, **delays}
    systems = [
        {"system": "ours", "most_streams": 8, "rows": [{"streams": 8, **row}, {"streams": 4, **row}]},
        {"system": "theirs", "most_streams": 0, "rows": [{"streams": 4, **row, "lost": ["gone"]}]},
    ]
    head, *lines, most = serve["report"].table(systems).splitlines()
    assert [line.split()[:3] for line in lines] == [["4", "ours", "0"], ["4", "theirs", "1"], ["8", "ours", "0"]]
    assert lines[0].split()[3:] == ["1.0", "-", "1/2/3", "4/5/6", "-", "0.200", "0.100"] and head.split()[:2] == ["streams", "system"]
    assert most.endswith("ours 8, theirs 0")


@pytest.mark.slow
def test_the_peer_finishes_on_finish_alone_and_refuses_by_name(serve):
    pytest.importorskip("pocketsphinx", reason="the peer is not installed")
    import grpc

    from asrlife.v1 import asrlife_pb2_grpc

    plain = {"encoding": pb.PCM16, "sample_rate_hz": 16_000}
    speech = serve["Speech"].of(0, 1.0)
    sound = (speech.samples * 32767).astype("<i2").tobytes()

    def requests(*controls, **config):
        yield pb.StreamingRequest(config=pb.StreamingConfig(**plain, **config))
        yield pb.StreamingRequest(audio=pb.Audio(content=sound))
        yield from (pb.StreamingRequest(control=control) for control in controls)

    with serve["beside"]("sphinx.py") as address, grpc.insecure_channel(address) as channel:
        said = asrlife_pb2_grpc.SpeechAdaptStub(channel).StreamingRecognize
        opened, *results, closed = said(requests(pb.FINISH))
        assert opened.HasField("opened") and [each.result.is_final for each in results] == [True]
        assert closed.closed.utterances == 1 and closed.closed.audio.ToMilliseconds() == len(sound) // 32
        assert not any(each.HasField("closed") for each in said(requests()))
        with pytest.raises(grpc.RpcError, match="word_times"):
            list(said(requests(pb.FINISH, word_times=True)))
