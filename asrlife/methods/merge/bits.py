"""Numbers of two bytes as numba sees them: integers, widened to float32 and rounded back to nearest, ties to even.

numba keeps what it compiled by the date of a function's own file: whoever changes this file must touch kernels.py, which calls it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types, uint32
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
"""Codes of the dtypes of memory."""


@intrinsic
def as_float(context: Any, word: Any) -> Any:
    """The float32 whose bits are `word`."""
    return types.float32(types.uint32), lambda ctx, builder, _, args: builder.bitcast(args[0], ctx.get_value_type(types.float32))


@intrinsic
def as_word(context: Any, number: Any) -> Any:
    """The bits of a float32."""
    return types.uint32(types.float32), lambda ctx, builder, _, args: builder.bitcast(args[0], ctx.get_value_type(types.uint32))


@intrinsic
def fused(context: Any, one: Any, other: Any, addend: Any) -> Any:
    """one * other + addend, rounded once."""
    return types.float32(types.float32, types.float32, types.float32), lambda ctx, builder, _, args: builder.fma(*args)


@intrinsic
def _halves(context: Any, address: Any) -> Any:
    kind = types.CPointer(types.uint16)
    return kind(types.int64), lambda ctx, builder, _, args: builder.inttoptr(args[0], ctx.get_value_type(kind))


@intrinsic
def _floats(context: Any, address: Any) -> Any:
    kind = types.CPointer(types.float32)
    return kind(types.int64), lambda ctx, builder, _, args: builder.inttoptr(args[0], ctx.get_value_type(kind))


LANES = 16


@intrinsic
def between(context: Any, address: Any, low: Any, high: Any) -> Any:
    """A bit for each of the 16 int32 at `address` that lies between `low` and `high`, which are int32."""

    def code(ctx: Any, builder: Any, _: Any, args: Any) -> Any:
        lane = ir.IntType(32)
        several = ir.VectorType(lane, LANES)
        numbers = builder.load(builder.inttoptr(args[0], several.as_pointer()), align=4)

        def spread(number: Any) -> Any:
            one = builder.insert_element(ir.Constant(several, ir.Undefined), number, ir.Constant(lane, 0))
            return builder.shuffle_vector(one, one, ir.Constant(several, [0] * LANES))

        inside = builder.and_(builder.icmp_signed(">", numbers, spread(args[1])), builder.icmp_signed("<", numbers, spread(args[2])))
        return builder.zext(builder.bitcast(inside, ir.IntType(LANES)), lane)

    return types.uint32(types.int64, types.int32, types.int32), code


@njit(nogil=True, cache=True, inline="always")
def _from_half(word: Any) -> Any:
    """The float32 of a float16: the exponent is moved by a multiplication, which subnormal numbers survive."""
    size = uint32(word & 0x7FFF) << 13
    moved = as_word(as_float(uint32(size)) * np.float32(2.0**112))
    if size >= 0x0F800000:  # infinity, not a number
        moved = uint32(size | 0x7F800000)
    return as_float(uint32(moved | (uint32(word & 0x8000) << 16)))


@njit(nogil=True, cache=True, inline="always")
def _to_half(number: Any) -> Any:
    """The float16 nearest to a float32, as in Marat Dukhan's FP16 library: an addition at the right exponent does the rounding."""
    word = as_word(number)
    base = (np.abs(number) * np.float32(2.0**112)) * np.float32(2.0**-110)
    doubled = uint32(word + word)
    bias = max(uint32(doubled & 0xFF000000), uint32(0x71000000))
    found = as_word(as_float(uint32((bias >> 1) + 0x07800000)) + base)
    size = uint32(((found >> 13) & 0x7C00) + (found & 0x0FFF))
    if doubled > 0xFF000000:
        size = uint32(0x7E00)
    return np.uint16((word >> 16) & 0x8000 | size)


@njit(nogil=True, cache=True, inline="always")
def _to_brain(number: Any) -> Any:
    word = as_word(number)
    if number != number:  # noqa: PLR0124 # what a number is not
        return np.uint16(0x7FC0)
    return np.uint16(uint32(word + 0x7FFF + ((word >> 16) & 1)) >> 16)


@njit(nogil=True, cache=True)
def widen(address: int, code: int, start: int, count: int, into: Any) -> None:
    """`count` numbers of dtype `code` from element `start` of the memory at `address`, as float32."""
    if code == FLOAT32:
        floats = carray(_floats(address + 4 * start), count)
        for place in range(count):
            into[place] = floats[place]
        return
    words = carray(_halves(address + 2 * start), count)
    if code == BFLOAT16:
        for place in range(count):
            into[place] = as_float(uint32(words[place]) << 16)
    else:
        for place in range(count):
            into[place] = _from_half(words[place])


@njit(nogil=True, cache=True)
def narrow(values: Any, count: int, address: int, code: int, start: int) -> bool:
    """Round `count` float32 numbers to dtype `code`, from element `start` on of the memory at `address`; whether all are finite there."""
    largest = uint32(0)
    if code == FLOAT32:
        floats = carray(_floats(address + 4 * start), count)
        for place in range(count):
            floats[place] = values[place]
            largest = max(largest, as_word(values[place]) & uint32(0x7FFFFFFF))
        return largest < 0x7F800000
    words = carray(_halves(address + 2 * start), count)
    if code == BFLOAT16:
        for place in range(count):
            words[place] = _to_brain(values[place])
    else:
        for place in range(count):
            words[place] = _to_half(values[place])
    for place in range(count):
        largest = max(largest, uint32(words[place] & 0x7FFF))
    return largest < (0x7F80 if code == BFLOAT16 else 0x7C00)
