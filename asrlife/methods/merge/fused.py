"""Which merges the fused kernels can do, and the threads that do them: the bits of Method.merge, rounded once, at the speed of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.linear import Linear
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.vectors import TaskArithmetic, Ties

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SMALLEST = 1 << 16
"""Elements that are worth a second thread."""
Kernel = Callable[[int, int], Any]
"""What does elements from the first to before the last."""
_NOTHING = 1e-8  # what `consensus.summed` takes for weights that cancel


@cache
def available() -> bool:
    """Whether numba is here and compiles; without it, torch does the same more slowly."""
    try:
        import asrlife.methods.merge.kernels  # noqa: F401
    except (ImportError, RuntimeError) as error:  # no numba; nowhere to keep what it compiles
        logging.getLogger(__name__).warning("merging without fused kernels, more slowly: %s", error)
        return False
    return True


def fits(method: Method, stack: Stack, out: Tensor) -> bool:
    """Whether `merge_into` can do this: linear, task arithmetic or ties in float32, of contiguous float32, bfloat16 and float16."""
    tensors = (*([] if stack.base is None else [stack.base]), *stack.experts, out)
    if not all(tensor.dtype in CODES and tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors):
        return False
    if isinstance(method, Ties):
        return method.rescale == "none"
    # an addcmul of torch without vectors of this width rounds twice
    vectors = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return type(method) is TaskArithmetic or (type(method) is Linear and vectors)


def merge_into(method: Method, stack: Stack, out: Tensor, threads: int = 1) -> None:
    """Write the merged parameter into `out`, rounded to its dtype; the models of `stack` may be in any dtype that `fits`.

    The bits are those of `method.merge` of the stack in float32, whatever `threads` is. Raises what it raises, and InputError where a
    number comes out NaN or infinite.
    """
    method.admit(stack)
    if not out.numel():
        return
    with _Team(out.numel(), threads) as team:
        kernel: Any = _blend if isinstance(method, Linear) else _combine if isinstance(method, TaskArithmetic) else _elect
        finite = team.run(kernel(method, stack, out, team))
    if not all(finite):
        raise InputError(f"{stack.name!r} comes out NaN or infinite in {out.dtype}: take smaller weights, or another dtype")


def _blend(method: Linear, stack: Stack, out: Tensor, team: _Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = _floats(method.own(stack, "weight"))
    divisor = torch.from_numpy(factors).sum() if method.normalize else torch.tensor(1.0)
    if float(divisor) == 0:
        raise InputError(f"linear: the weights of {stack.name!r} sum to 0: pass others, or normalize false")
    given = (*_memory(stack.experts), factors, np.float32(divisor), _place(out))
    return lambda start, stop: kernels.blend(*given, start, stop)


def _combine(method: TaskArithmetic, stack: Stack, out: Tensor, team: _Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = _floats(method.own(stack, "weight"))
    whole = float(torch.from_numpy(factors).sum())
    divisor = whole if method.normalize and abs(whole) >= _NOTHING else 1.0
    given = (*_memory(_all(stack)), factors, np.float32(divisor), np.float32(method.scale), _place(out))
    return lambda start, stop: kernels.combine(*given, start, stop)


def _elect(method: Ties, stack: Stack, out: Tensor, team: _Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = _floats(method.own(stack, "weight"))
    shares = factors if method.divide == "weights" else np.ones_like(factors)
    cuts = [_cut(method, stack, index, team) for index in range(len(stack.experts))]
    edges, lasts = (np.array(column, np.int64) for column in zip(*cuts, strict=True))
    voting = {"weighted": kernels.WEIGHTED, "plain": kernels.PLAIN, "frequency": kernels.FREQUENCY}[method.elect]
    given = (*_memory(_all(stack)), factors, shares, edges, lasts, voting, method.normalize, np.float32(method.scale), _place(out))
    return lambda start, stop: kernels.elect(*given, start, stop)


def _cut(method: Ties, stack: Stack, index: int, team: _Team) -> tuple[int, int]:
    """The bits of the magnitude at which expert `index` is trimmed, and the last element that stays of those that have just it."""
    total = stack.experts[0].numel()
    limit, density = method.own(stack, "threshold")[index], method.own(stack, "density")[index]
    if limit > 0:
        return int(np.float32(limit).view(np.int32)), total
    count = max(1, int(density * total))
    if density >= 1 or density <= 0 or count >= total:
        return (0x80000000, -1) if density <= 0 else (-1, total)
    assert stack.base is not None
    return _selected((stack.base, stack.experts[index]), count, team)


def _selected(pair: tuple[Tensor, Tensor], count: int, team: _Team) -> tuple[int, int]:
    """Radix selection in two passes, exact: the `count`-th largest magnitude of their difference, and where the last of its equals is."""
    from asrlife.methods.merge import kernels

    memory = _memory(pair)
    upper, left = _from_above(team.counted(lambda a, z, counts: kernels.histogram(*memory, -1, a, z, counts)).sum(0), count)
    parts = team.counted(lambda a, z, counts: kernels.histogram(*memory, upper, a, z, counts))
    lower, left = _from_above(parts.sum(0), left)
    edge, last = upper << 16 | lower, pair[0].numel()
    if left == parts[:, lower].sum():
        return edge, last
    for (start, stop), here in zip(team.parts, parts[:, lower], strict=True):
        if left <= here:
            return edge, kernels.place_of(*memory, edge, left, start, stop)
        left -= int(here)
    raise AssertionError("counts that do not add up")


def _from_above(counts: Any, wanted: int) -> tuple[int, int]:
    above = counts[::-1].cumsum()
    place = int(np.searchsorted(above, wanted))
    return len(counts) - 1 - place, wanted - (int(above[place - 1]) if place else 0)


class _Team:
    """Threads that have a part of the elements each; numba gives the interpreter's lock back while it works."""

    def __init__(self, total: int, threads: int) -> None:
        threads = max(1, min(threads, total // SMALLEST))
        # parts begin at multiples of 64, so that no two write into one line of the cache
        edges = [total * part // threads // 64 * 64 for part in range(threads)] + [total]
        self.parts = list(zip(edges, edges[1:], strict=False))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, work: Kernel) -> list[Any]:
        return list((map if self._pool is None else self._pool.map)(work, *zip(*self.parts, strict=True)))

    def counted(self, work: Callable[[int, int, Any], Any]) -> Any:
        """Counts (parts, 65536) of 65536 bins."""
        counts = np.zeros((len(self.parts), 2, 1 << 16), np.int64)
        numbers = {part: number for number, part in enumerate(self.parts)}
        self.run(lambda start, stop: work(start, stop, counts[numbers[start, stop]]))
        return counts.sum(1)


def _all(stack: Stack) -> tuple[Tensor, ...]:
    assert stack.base is not None
    return (stack.base, *stack.experts)


def _floats(values: Sequence[float]) -> Any:
    return np.array(values, np.float32)


def _memory(tensors: Sequence[Tensor]) -> tuple[Any, Any]:
    places = [_place(tensor) for tensor in tensors]
    return np.array([address for address, _ in places], np.int64), np.array([code for _, code in places], np.int64)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), CODES[tensor.dtype]
