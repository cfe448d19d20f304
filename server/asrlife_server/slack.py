"""Memory that streams leave behind goes back to the system.

What a stream allocates lies among what lives on, and glibc gives back only what lies at the end of its heaps: a server that has had
hundreds of streams would hold hundreds of MB that nobody uses.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

EVERY = 20.0  # s


def trimmer() -> Callable[[], None] | None:
    """What makes the C library give free pages back; None where it knows no way (musl, macOS)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


async def returned(every: float = EVERY) -> None:
    """Give free memory back every so many s, off the event loop; ends at once where that cannot be done."""
    trim = trimmer()
    while trim is not None:
        await asyncio.sleep(every)
        await asyncio.to_thread(trim)
