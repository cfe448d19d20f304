"""Containers and state blobs that somebody has spoilt: refused by our own errors or read soundly, and nothing grows."""

from __future__ import annotations

import io
from random import Random

import numpy as np
import pytest
import soundfile
import torch

from asrlife.errors import InputError
from asrlife.methods.online.restore import restored
from asrlife.methods.online.state import State
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.container import Container
from asrlife_server.refusal import Refusal
from asrlife_server.state.entry import checksum
from asrlife_server.state.verbs import checked
from tests.fuzz.spoiling import reads_memory, spoilt, survives

KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
]


def written(kind: str, subtype: str) -> bytes:
    samples = np.random.default_rng(1).normal(0, 0.1, 600).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


@reads_memory
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_50_000_spoilt_containers_are_refused_or_heard() -> None:
    files = [written(*kind) for kind in KINDS]
    found = {"refused": 0, "heard": 0}

    def case(rng: Random) -> None:
        data = spoilt(rng.choice(files), rng)
        edges = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))})
        container = Container(rng.choice([0, 16_000, 8_000]))
        try:
            pieces = [container.decode(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
            samples = np.concatenate([*pieces, container.finish()])
        except Refusal as refusal:
            assert refusal.code == "INVALID_ARGUMENT" and refusal.message.startswith(("audio.content: ", "config.sample_rate_hz: "))
            found["refused"] += 1
            return
        found["heard"] += 1
        assert samples.dtype == np.float32 and np.isfinite(samples).all() and len(samples) <= 4 * len(data) + 4096

    survives(50_000, case)
    assert min(found.values()) > 1000  # or one of the two was hardly tried


@reads_memory
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_40_000_spoilt_states_are_refused_or_fit() -> None:
    record = {"count": 0, "seen": [], "bank": {"now": 0}}
    start = State("base", ("bias", "scale"), {"weights": torch.zeros(8), "first": torch.zeros(8)}, record)
    blob = start.updated({"weights": torch.linspace(0, 1, 8), "slope": torch.ones(8)}, count=3, seen=["a"]).to_bytes()
    found = {"refused": 0, "fit": 0}

    def case(rng: Random) -> None:
        data = spoilt(blob, rng)
        try:
            state = restored(data, start)
        except InputError as error:
            assert str(error)
            found["refused"] += 1
            return
        found["fit"] += 1
        assert state.names == start.names and all(torch.isfinite(vector).all() for vector in state.vectors.values())
        told = pb.StateVersion(base_hash="base", method="count", size_bytes=len(data), checksum=checksum(data))
        assert checked(told, data, start, None).base == "base"
        told.checksum = told.checksum[::-1]
        with pytest.raises(Refusal, match="checksum"):
            checked(told, data, start, None)

    survives(40_000, case)
    assert min(found.values()) > 1000
