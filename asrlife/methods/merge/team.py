"""Threads that have a part of a tensor each, and what of tensors their kernels are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What kernels call the dtypes."""
BLOCK = 1024
"""Elements that a kernel works on at once: some blocks fit in a core's own cache. Every part begins with one."""
SMALLEST = 1 << 16
"""Elements that are worth a second thread."""


class Team:
    """Threads for the elements of one tensor; numba gives the interpreter's lock back while it works. A context manager."""

    def __init__(self, total: int, threads: int) -> None:
        threads = max(1, min(threads, total // SMALLEST))
        edges = [total * part // threads // BLOCK * BLOCK for part in range(threads)] + [total]
        self.parts = list(zip(edges, edges[1:], strict=False))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, work: Callable[[int, int], Any]) -> list[Any]:
        """What `work` returns for each part, from the first to the last."""
        return list((map if self._pool is None else self._pool.map)(work, *zip(*self.parts, strict=True)))


def memory(tensors: Sequence[Tensor]) -> tuple[Any, Any]:
    """The addresses and the codes of the dtypes of contiguous tensors, as arrays."""
    addresses = np.array([tensor.data_ptr() for tensor in tensors], np.int64)
    return addresses, np.array([CODES[tensor.dtype] for tensor in tensors], np.int64)
