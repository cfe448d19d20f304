from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.methods.online.state import State, carried
from asrlife.methods.online.watch import Watch

finite = st.floats(allow_nan=False, allow_infinity=False)
watches = st.builds(
    Watch, age=st.integers(0, 999), gaps=st.lists(finite, max_size=5).map(tuple), mean=st.none() | finite, fails=st.integers(0, 3)
)


def sound(seed: int, samples: int = 160) -> Waveform:
    return Waveform(np.random.default_rng(seed).standard_normal(samples).astype(np.float32), 16_000)


def state(size: int = 4, **changes: Any) -> State:
    vectors = {
        name: torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate(("weights", "first", "second"))
    }
    return replace(State("base", ("a", "b"), **vectors, count=3, seen=17, buffer=(sound(1),)), **changes)


@settings(max_examples=25, deadline=None)
@given(watches, st.integers(0, 6), st.booleans(), st.integers(0, 3))
def test_bytes_give_the_state_back(watch: Watch, size: int, domain: bool, waiting: int) -> None:
    buffer = tuple(sound(seed, 16) for seed in range(waiting))
    kept = state(size, watch=watch, domain=torch.ones(size) if domain else None, buffer=buffer)
    found = State.from_bytes(kept.to_bytes(), "base")
    assert found.to_bytes() == kept.to_bytes()
    assert found.digest() == kept.digest()
    assert found.watch == watch
    assert torch.equal(carried(found), carried(kept))
    assert [waveform.rate for waveform in found.buffer] == [16_000] * waiting
    for there, here in zip(found.buffer, buffer, strict=True):
        np.testing.assert_array_equal(there.samples, here.samples)


@pytest.mark.parametrize(
    "change",
    [
        {"base": "other"}, {"names": ("a", "c")}, {"weights": torch.zeros(4)}, {"first": torch.zeros(4)}, {"second": torch.zeros(4)},
        {"count": 4}, {"seen": 18}, {"buffer": ()}, {"domain": torch.zeros(4)}, {"watch": Watch(age=1)},
    ],
)  # fmt: skip
def test_the_digest_covers_every_field(change: dict[str, Any]) -> None:
    assert state(**change).digest() != state().digest()


def test_the_order_of_buffered_audio_counts() -> None:
    sounds = sound(1), sound(2)
    assert state(buffer=sounds).digest() != state(buffer=sounds[::-1]).digest()


def test_the_state_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="belongs to model base"):
        State.from_bytes(state().to_bytes(), "another")


def damaged(data: bytes) -> list[bytes]:
    return [
        b"",
        data[:7],
        data[:60],
        data[:-3],
        b"x" * 40,
        data.replace(b'\\"format\\": 1', b'\\"format\\": 9'),
        data.replace(b"seen", b"sean"),
    ]


@pytest.mark.parametrize("which", range(7))
def test_damaged_bytes_are_refused_with_what_to_do(which: int) -> None:
    with pytest.raises(InputError, match="start a new stream"):
        State.from_bytes(damaged(state().to_bytes())[which], "base")
