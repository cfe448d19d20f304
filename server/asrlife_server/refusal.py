"""What the server answers when it will not go on with a stream."""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
]


class Refusal(Exception):
    """Ends a stream with the gRPC status `code`; the message names the rule, the field and the value."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(field: str, message: str) -> Refusal:
    """Refuse a field of a request by its path."""
    return Refusal("INVALID_ARGUMENT", f"{field}: {message}")
