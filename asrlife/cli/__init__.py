"""The command `asrlife`: progress on standard error, results on standard output."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad usage or input, 130 when interrupted."""
    from asrlife.cli.app import run

    return run(arguments)
