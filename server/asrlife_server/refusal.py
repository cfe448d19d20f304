"""What the server answers when it will not go on with a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from google.rpc import code_pb2, error_details_pb2, status_pb2

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAUTHENTICATED",
]
_DETAILS = "grpc-status-details-bin"  # where gRPC's libraries look for a google.rpc.Status


class Refusal(Exception):
    """Ends a stream with the gRPC status `code`; the message names the rule, the field and the value.

    `field` is the path of the request's field at fault, if one is; `retry_s` says when another try may do better. `settles`: what was
    heard before is recognised, adapted to and sent first.
    """

    def __init__(self, code: Code, message: str, *, field: str = "", retry_s: int | None = None, settles: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_s = retry_s
        self.settles = settles

    def renamed(self, names: Mapping[str, str]) -> Refusal:
        """The same in the words of another protocol, which calls what we name by `names`."""
        known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        ours = re.compile(rf"(?<![\w.])(?:{known})(?!\w)")
        message, field = (ours.sub(lambda found: names[found[0]], text) for text in (self.message, self.field))
        return Refusal(self.code, message, field=field, retry_s=self.retry_s, settles=self.settles)

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata with google.rpc.BadRequest or RetryInfo, as grpc_status.rpc_status reads it."""
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code), message=self.message)
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_s is not None:
            again = error_details_pb2.RetryInfo()
            again.retry_delay.FromSeconds(self.retry_s)
            status.details.add().Pack(again)
        return ((_DETAILS, status.SerializeToString()),)


def about(code: Code, field: str, message: str) -> Refusal:
    """Refuse a call for what stands in a field of its request, by the field's path."""
    return Refusal(code, f"{field}: {message}", field=field)


def invalid(field: str, message: str, settles: bool = False) -> Refusal:
    """Refuse a field of a request by its path."""
    return Refusal("INVALID_ARGUMENT", f"{field}: {message}", field=field, settles=settles)


def illegible(message: str) -> Refusal:
    """A message whose bytes cannot be read."""
    return Refusal("INVALID_ARGUMENT", f"the bytes are no {message} of asrlife.v1; use stubs of this server's protocol file")
