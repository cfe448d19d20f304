"""Which merges the fused kernels can do, and the threads that do them: the bits of Method.merge, rounded once, at the speed of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge.linear import Linear
from asrlife.methods.merge.method import Method, Stack
from asrlife.methods.merge.rules import THINNED, rules
from asrlife.methods.merge.team import CODES, Team, memory
from asrlife.methods.merge.vectors import Electing, TaskArithmetic, TaskVectors

PIECE = 1 << 16
"""Elements that are given away at once: they stay in a core's cache until then."""
Kernel = Callable[[tuple[int, int], int, int], bool]
"""Does elements from a first to before a last, for the memory (address of element 0, code of the dtype) of the result; are all finite?"""
Take = Callable[[int, Tensor], None]
"""Takes the elements from a first one on, as a flat tensor that is used again; called from several threads."""
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


def fits(method: Method, stack: Stack, dtype: torch.dtype) -> bool:
    """Whether `merge` can do this: linear, task arithmetic, TIES, DARE or breadcrumbs in float32, of contiguous floats of 2 or 4 bytes."""
    tensors = (*([] if stack.base is None else [stack.base]), *stack.experts)
    if not all(tensor.dtype in CODES and tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in tensors):
        return False
    if dtype not in CODES:
        return False
    # an addcmul of torch without vectors of this width rounds twice
    vectors = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}
    return type(method) in THINNED or (type(method) is Linear and vectors)


def merge(method: Method, stack: Stack, dtype: torch.dtype, take: Take, threads: int = 1) -> None:
    """Work the merged parameter out, rounded to `dtype`, and give it to `take` piece by piece; the stack may be in any dtypes that `fits`.

    The bits are those of `method.merge` of the stack in float32, whatever `threads` is. Raises what it raises, and InputError where a
    number comes out NaN or infinite.
    """
    method.admit(stack)
    total = stack.experts[0].numel()
    if not total:
        return
    with Team(total, threads) as team:
        make: Any = _blend if isinstance(method, Linear) else _combine if isinstance(method, TaskArithmetic) else _mix
        kernel: Kernel = make(method, stack, team)
        finite = team.run(lambda start, stop: _piecewise(kernel, dtype, take, start, stop))
    if not all(finite):
        raise InputError(f"{stack.name!r} comes out NaN or infinite in {dtype}: take smaller weights, or another dtype")


def _piecewise(kernel: Kernel, dtype: torch.dtype, take: Take, start: int, stop: int) -> bool:
    piece, finite = torch.empty(min(PIECE, stop - start), dtype=dtype), True
    for first in range(start, stop, PIECE):
        last = min(stop, first + PIECE)
        finite &= kernel((piece.data_ptr() - first * dtype.itemsize, CODES[dtype]), first, last)
        take(first, piece[: last - first])
    return finite


def _blend(method: Linear, stack: Stack, team: Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = _floats(method.own(stack, "weight"))
    divisor = torch.from_numpy(factors).sum() if method.normalize else torch.tensor(1.0)
    if float(divisor) == 0:
        raise InputError(f"linear: the weights of {stack.name!r} sum to 0: pass others, or normalize false")
    given = (*memory(stack.experts), factors, np.float32(divisor))
    return lambda out, start, stop: bool(kernels.blend(*given, out, start, stop))


def _combine(method: TaskVectors, stack: Stack, team: Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = _floats(method.own(stack, "weight"))
    given = (*memory(_all(stack)), factors, _divisor(method, factors), np.float32(method.scale))
    return lambda out, start, stop: bool(kernels.combine(*given, out, start, stop))


def _mix(method: TaskVectors, stack: Stack, team: Team) -> Kernel:
    from asrlife.methods.merge import kernels

    factors = shares = _floats(method.own(stack, "weight"))
    voting, normalize, divisor = kernels.NOBODY, False, _divisor(method, factors)
    if isinstance(method, Electing):
        voting = {"weighted": kernels.WEIGHTED, "plain": kernels.PLAIN, "frequency": kernels.FREQUENCY}[method.elect]
        normalize, divisor = method.normalize, np.float32(1)
        shares = factors if method.divide == "weights" else np.ones_like(factors)
    given = (*memory(_all(stack)), rules(method, stack, team), factors, shares, voting, normalize, divisor, np.float32(method.scale))
    return lambda out, start, stop: bool(kernels.mix(*given, out, start, stop))


def _divisor(method: TaskVectors, factors: Any) -> Any:
    whole = float(torch.from_numpy(factors).sum())
    return np.float32(whole if method.normalize and abs(whole) >= _NOTHING else 1.0)


def _all(stack: Stack) -> tuple[Tensor, ...]:
    assert stack.base is not None
    return (stack.base, *stack.experts)


def _floats(values: Sequence[float]) -> Any:
    return np.array(values, np.float32)
