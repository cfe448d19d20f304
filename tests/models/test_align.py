from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.waveform import Waveform
from asrlife.models.align import smoothed_attention, time_warp
from asrlife.models.windows import split


@pytest.mark.parametrize("seed", range(4))
def test_time_warp_agrees_with_the_loop_of_transformers(seed: int) -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping

    cost = np.random.default_rng(seed).standard_normal((7 + seed, 40))
    rows, columns = _dynamic_time_warping(cost)
    jumps = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    assert time_warp(cost).tolist() == columns[jumps].tolist()


def test_time_warp_by_hand() -> None:
    cost = -np.eye(3).repeat(2, axis=1)  # row i is heard in columns 2i and 2i + 1
    assert time_warp(cost).tolist() == [0, 2, 4]
    assert time_warp(np.zeros((1, 1))).tolist() == [0]


def test_attention_along_a_diagonal_is_found_again() -> None:
    weights = torch.full((2, 5, 50), 0.001)
    for row in range(5):
        weights[:, row, 10 * row : 10 * row + 10] = 0.1
    starts = time_warp(-smoothed_attention(weights))
    assert np.abs(starts - 10 * np.arange(5)).max() <= 1
    assert smoothed_attention(torch.ones(1, 2, 1)).shape == (2, 1)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(0, 9_000), limit=st.floats(0.25, 3), seed=st.integers(0, 99))
def test_pieces_make_up_the_whole_and_keep_the_limit(samples: int, limit: float, seed: int) -> None:
    whole = Waveform(np.random.default_rng(seed).standard_normal(samples, np.float32), 1_000)
    pieces = split(whole, limit)
    assert np.array_equal(np.concatenate([piece.samples for _, piece in pieces]), whole.samples)
    assert all(piece.duration <= limit for _, piece in pieces)
    ends = np.cumsum([len(piece.samples) for _, piece in pieces])
    assert [start for start, _ in pieces] == [0.0, *(ends[:-1] / 1_000)]


def test_long_audio_is_cut_in_its_pause() -> None:
    samples = np.random.default_rng(0).standard_normal(3_000).astype(np.float32)
    samples[1_400:1_700] *= 0.001
    (_, first), (start, _) = split(Waveform(samples, 1_000), 2.0)
    assert 1.4 < start < 1.7 and first.duration == start
