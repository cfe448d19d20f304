"""Monotonic alignments: of CTC labels with frames, of decoder tokens with cross-attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def align_labels(log_probs: Tensor, labels: list[int], blank: int) -> list[int]:
    """The likeliest frame-by-frame path (frames,) that collapses to `labels`, given log-probabilities (frames, classes).

    Labels that do not fit into the frames are dropped from the end.
    """
    from torchaudio.functional import forced_align

    labels = _fitting(labels, len(log_probs))
    if not labels:
        return [blank] * len(log_probs)
    path, _ = forced_align(log_probs[None].contiguous(), torch.tensor([labels], dtype=torch.int32), blank=blank)
    return path[0].tolist()


def _fitting(labels: list[int], frames: int) -> list[int]:
    needed = 0
    for index, label in enumerate(labels):
        needed += 2 if index and labels[index - 1] == label else 1
        if needed > frames:
            return labels[:index]
    return labels


def time_warp(cost: np.ndarray) -> np.ndarray:
    """First column of every row on the cheapest monotonic path through `cost` (rows, columns); int (rows,).

    Steps are down, right and diagonal, the recursion of Sakoe and Chiba (1978), computed by anti-diagonals.
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        best = np.minimum(np.minimum(total[i - 1, j - 1], total[i - 1, j]), total[i, j - 1])
        total[i, j] = cost[i - 1, j - 1] + best
    return _first_columns(total)


def _first_columns(total: np.ndarray) -> np.ndarray:
    i, j = total.shape[0] - 1, total.shape[1] - 1
    first = np.zeros(i, np.int64)
    while i > 0:
        first[i - 1] = j - 1
        moves = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(moves, key=lambda cell: total[cell])
    return first


def smoothed_attention(weights: Tensor, width: int = 7) -> np.ndarray:
    """Mean over heads of normalised and median-filtered weights (heads, tokens, frames) -> (tokens, frames).

    Each frame is standardised over the tokens, so that a token is found where it attends more than its neighbours do
    (openai-whisper, whisper/timing.py).
    """
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    scaled = (weights - mean) / deviation.clamp(min=1e-6)
    half = min(width, (scaled.shape[-1] - 1) | 1) // 2
    if half > 0 and scaled.shape[-1] > half:
        padded = torch.nn.functional.pad(scaled, (half, half), mode="reflect")
        scaled = padded.unfold(-1, 2 * half + 1, 1).median(-1).values
    return scaled.mean(0).double().cpu().numpy()
