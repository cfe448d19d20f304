"""What a stream has learnt so far, as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from asrlife.delta.rows import source
from asrlife.errors import InputError
from asrlife.models.handle import Recogniser

_FORMAT = 2
# whatever safetensors, torch and json say of bytes that someone made up; a RuntimeError may be a RecursionError of nested JSON
_DAMAGE = (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError)


@dataclass(frozen=True, eq=False)
class State:
    """Tuned weights of one stream beside a model it never copies.

    `vectors` are float32, mostly (P,), P the numbers in the parameters `names`: "weights" are what the next utterance starts from,
    "first" and "second" its Adam moments, the rest is the method's own. `record` holds counts and statistics, as JSON would. The source
    is the model, known by its fingerprint `base`. Episodic methods carry nothing.
    """

    base: str
    names: tuple[str, ...] = ()
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Recogniser, names: tuple[str, ...], **record: Any) -> State:
        """The source weights of `names` with fresh moments."""
        return cls(model.fingerprint(), names, fresh(source(model.module, names)), record)

    def __getitem__(self, key: str) -> Tensor:
        """A vector."""
        return self.vectors[key]

    def updated(self, vectors: Mapping[str, Tensor | None] | None = None, **record: Any) -> State:
        """With other vectors (None: without them) and other entries of the record."""
        merged = {**self.vectors, **(vectors or {})}
        kept = {name: vector for name, vector in merged.items() if vector is not None}
        return replace(self, vectors=kept, record={**self.record, **record})

    def to_bytes(self) -> bytes:
        """A safetensors file; equal states give equal bytes."""
        note = {"format": _FORMAT, "base": self.base, "names": self.names, "record": self.record}
        # one entry only: safetensors writes several in no fixed order
        text = json.dumps(note, sort_keys=True, allow_nan=False)
        # copied, as a snapshot may be the very vector that the weights are, and safetensors refuses shared memory
        vectors = {name: vector.detach().cpu().contiguous().clone() for name, vector in self.vectors.items()}
        return safetensors.torch.save(vectors, {"state": text})

    @classmethod
    def from_bytes(cls, data: bytes, base: str) -> State:
        """Read `to_bytes`; raises InputError when the bytes are damaged or belong to another model than the one with fingerprint `base`."""
        try:
            with torch.inference_mode(False):
                vectors, note = safetensors.torch.load(data), _note(data)
            if note["format"] != _FORMAT:
                raise InputError(f"a state of format {note['format']}, this version reads {_FORMAT}: start a new stream")
            state = cls(str(note["base"]), tuple(map(str, note["names"])), vectors, _plain(note["record"]))
        except _DAMAGE as error:
            raise error if isinstance(error, InputError) else InputError(f"no state can be read ({error}): start a new stream") from error
        if state.base != base:
            raise InputError(f"the state belongs to model {state.base[:12]}, not to {base[:12]}: load that model or start a new stream")
        return state

    def digest(self) -> str:
        """SHA-256 over everything; two streams with equal digests go on alike."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of its vectors in memory."""
        return sum(vector.numel() * vector.element_size() for vector in self.vectors.values())


def fresh(weights: Tensor) -> dict[str, Tensor]:
    """`weights` (P,) with Adam moments of no update."""
    with torch.inference_mode(False):
        return {"weights": weights, "first": torch.zeros_like(weights), "second": torch.zeros_like(weights)}


def carried(state: State) -> Tensor:
    """The weights (P,) of `state.names` that go on to the next utterance."""
    return state["weights"]


def seams(data: bytes) -> list[int]:
    """Where in the bytes of a state each of its vectors begins, in order; nowhere in bytes that are no state's."""
    try:
        start, header = _header(data)
        begins = [start + int(vector["data_offsets"][0]) for name, vector in header.items() if name != "__metadata__"]
        return sorted(place for place in begins if start <= place < len(data))
    except _DAMAGE:
        return []


def _header(data: bytes) -> tuple[int, dict[str, Any]]:
    """Where the vectors begin, and what safetensors says of them."""
    start = 8 + int.from_bytes(data[:8], "little")
    return start, json.loads(data[8:start])


def _note(data: bytes) -> dict[str, Any]:
    found = json.loads(_header(data)[1]["__metadata__"]["state"])
    if not isinstance(found, dict):
        raise ValueError("its note is no object")
    return found


def _plain(record: Any) -> dict[str, Any]:
    """A record that can be written again: JSON readers take NaN and 1e999, writers do not."""
    json.dumps(record, allow_nan=False)
    return dict(record)
