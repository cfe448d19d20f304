"""What a server keeps of a speaker, as values, and the calls about it in both clients' words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb

_PIECE = 64 * 1024  # bytes in one message
_NANO = 1_000_000_000


@dataclass(frozen=True)
class StateVersion:
    """One version of a kept state.

    `method` is "" after a reset to the base weights; `time` in s since 1970; `drift` is the distance of the weights to the base;
    `quarantined` says why the server keeps it and never loads it, "" where it is sound.
    """

    version: int
    base_hash: str
    method: str
    settings: Mapping[str, str]
    settings_digest: str
    checksum: str
    size_bytes: int
    steps: int
    drift: float
    time: float
    quarantined: str

    @classmethod
    def of(cls, told: pb.StateVersion) -> StateVersion:
        """Read the message."""
        plain = {name: getattr(told, name) for name in cls.__annotations__ if name not in ("settings", "time")}
        return cls(settings=dict(told.settings), time=told.time.ToNanoseconds() / _NANO, **plain)

    def message(self) -> pb.StateVersion:
        """As a message."""
        told = pb.StateVersion(**{name: value for name, value in asdict(self).items() if name not in ("time", "quarantined")})
        told.time.FromNanoseconds(round(self.time * _NANO))
        return told


@dataclass(frozen=True)
class KeptState:
    """A key's state: the version that the next stream starts from, all that are kept (newest first), and whether a stream writes it now."""

    key: str
    current: StateVersion
    history: tuple[StateVersion, ...] = ()
    being_written: bool = False

    @classmethod
    def of(cls, told: pb.AdaptationState) -> KeptState:
        """Read the message."""
        return cls(told.adaptation_key, StateVersion.of(told.current), tuple(map(StateVersion.of, told.history)), told.being_written)

    def to_json(self) -> dict[str, Any]:
        """As JSON would have it."""
        return asdict(self)


@dataclass(frozen=True)
class Exported:
    """A state taken out of a server: its bytes (a safetensors file) and what they are."""

    key: str
    version: StateVersion
    blob: bytes

    def write(self, path: Path) -> None:
        """Write the bytes to `path` and what they are beside it, as `path`.json."""
        from asrlife.files import atomic

        with atomic(path) as file:
            file.write(self.blob)
        with atomic(_beside(path), "w") as file:
            json.dump({"key": self.key, **asdict(self.version)}, file, indent=2)

    @classmethod
    def read(cls, path: Path) -> Exported:
        """Read what `write` wrote; raises InputError for files that are missing or are none."""
        try:
            told = json.loads(_beside(path).read_text("utf-8"))
            return cls(str(told.pop("key")), StateVersion(**told), path.read_bytes())
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}; `asrlife state export` writes two files") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{_beside(path)}: is not what `asrlife state export` writes ({error})") from None

    def chunks(self, key: str) -> Iterator[pb.AdaptationChunk]:
        """The messages that bring it in under `key`."""
        try:
            yield pb.AdaptationChunk(state=pb.AdaptationState(adaptation_key=key, current=self.version.message()))
        except (TypeError, ValueError) as error:
            raise InputError(f"the state's description has a value of the wrong kind ({error}); export it again") from None
        for start in range(0, len(self.blob), _PIECE):
            yield pb.AdaptationChunk(content=self.blob[start : start + _PIECE])

    @classmethod
    def of(cls, chunks: Iterable[pb.AdaptationChunk]) -> Exported:
        """Gather the messages of an export."""
        gathered = list(chunks)
        told = KeptState.of(gathered[0].state)
        return cls(told.key, told.current, b"".join(chunk.content for chunk in gathered[1:]))

    @classmethod
    async def later(cls, chunks: AsyncIterable[pb.AdaptationChunk]) -> Exported:
        """The same for messages that come in their own time."""
        return cls.of([chunk async for chunk in chunks])


def reset_request(key: str, version: int | None) -> pb.ResetAdaptationRequest:
    """Back to a version, None being the base."""
    request = pb.ResetAdaptationRequest(adaptation_key=key)
    if version is not None:
        request.version = version
    return request


def export_request(key: str, version: int | None) -> pb.ExportAdaptationRequest:
    """A version, None being the current one."""
    request = pb.ExportAdaptationRequest(adaptation_key=key)
    if version is not None:
        request.version = version
    return request


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
