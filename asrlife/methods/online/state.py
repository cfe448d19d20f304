"""What a stream has learnt so far, as a value."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.methods.online.watch import Watch
from asrlife.models.handle import Recogniser

_FORMAT = 1
_VECTORS = ("weights", "first", "second", "domain")


def _zeros(like: Tensor | None = None) -> Tensor:
    # what inference mode makes cannot be used outside of it
    with torch.inference_mode(False):
        return torch.zeros(0) if like is None else torch.zeros(like.shape, device=like.device)


@dataclass(frozen=True, eq=False)
class State:
    """Tuned weights of one stream beside a model it never copies; every vector is float32 (P,), P the numbers in `names`.

    `weights` are what the next utterance starts from, with the Adam moments `first` and `second` of `count` updates. `seen` counts the
    utterances learnt from, `buffer` holds those that wait for the slow update, `domain` (P,) is the frozen snapshot that `watch`, the
    statistics of the reset, compares with the source; the source itself is the model, known by its fingerprint `base`.
    Episodic methods carry nothing: no names, P = 0.
    """

    base: str
    names: tuple[str, ...] = ()
    weights: Tensor = field(default_factory=_zeros)
    first: Tensor = field(default_factory=_zeros)
    second: Tensor = field(default_factory=_zeros)
    count: int = 0
    seen: int = 0
    buffer: tuple[Waveform, ...] = ()
    domain: Tensor | None = None
    watch: Watch = Watch()

    @classmethod
    def of(cls, model: Recogniser, names: tuple[str, ...]) -> State:
        """The source weights of `names` with fresh moments."""
        with torch.inference_mode(False), torch.no_grad():
            weights = torch.cat([model.module.get_parameter(name).detach().reshape(-1) for name in names])
        return cls(model.fingerprint(), names, weights, _zeros(weights), _zeros(weights))

    def returned(self, source: Tensor) -> State:
        """Back at the weights `source` (P,), all forgotten but `seen`."""
        fresh = State(self.base, self.names, source, _zeros(source), _zeros(source))
        return replace(fresh, seen=self.seen)

    def to_bytes(self) -> bytes:
        """A safetensors file; equal states give equal bytes."""
        vectors = {name: getattr(self, name).cpu().numpy() for name in _VECTORS if getattr(self, name) is not None}
        vectors |= {f"buffer.{index:06d}": waveform.samples for index, waveform in enumerate(self.buffer)}
        note = {"format": _FORMAT, "base": self.base, "names": self.names, "count": self.count, "seen": self.seen}
        note |= {"rates": [waveform.rate for waveform in self.buffer], "watch": asdict(self.watch)}
        # one entry only: safetensors writes several in no fixed order
        text = json.dumps(note, sort_keys=True, allow_nan=False)
        return safetensors.numpy.save(vectors, {"state": text})

    @classmethod
    def from_bytes(cls, data: bytes, base: str) -> State:
        """Read `to_bytes`; raises InputError when the bytes are damaged or belong to another model than the one with fingerprint `base`."""
        try:
            vectors, note = safetensors.torch.load(data), _note(data)
            if note["format"] != _FORMAT:
                raise InputError(f"a state of format {note['format']}, this version reads {_FORMAT}: start a new stream")
            buffer = tuple(Waveform(vectors.pop(f"buffer.{index:06d}").numpy(), rate) for index, rate in enumerate(note["rates"]))
            watch = Watch(**{**note["watch"], "gaps": tuple(note["watch"]["gaps"])})
            state = cls(note["base"], tuple(note["names"]), count=note["count"], seen=note["seen"], buffer=buffer, watch=watch, **vectors)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise error if isinstance(error, InputError) else InputError(f"no state can be read ({error}): start a new stream") from error
        if state.base != base:
            raise InputError(f"the state belongs to model {state.base[:12]}, not to {base[:12]}: load that model or start a new stream")
        return state

    def digest(self) -> str:
        """SHA-256 over everything; two streams with equal digests go on alike."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def carried(state: State) -> Tensor:
    """The weights (P,) of `state.names` that go on to the next utterance."""
    return state.weights


def _note(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    found = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["state"])
    if not isinstance(found, dict):
        raise ValueError("its note is no object")
    return found
