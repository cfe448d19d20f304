"""Merges measured one after the other in one network, each once: what was measured before, in this run or an earlier one, is remembered."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.weights import overwritten
from asrlife.errors import InputError
from asrlife.evaluate.bootstrap import rate_interval
from asrlife.evaluate.objective import Amounts, Objective
from asrlife.files import atomic

Values = Mapping[str, float]
_PAIRS = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))


class Merging(Protocol):
    """A merge with free settings, from models that stay in memory."""

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the settings."""

    @property
    def default(self) -> dict[str, float]:
        """What they are unless somebody chooses them."""

    @property
    def base(self) -> dict[str, float] | None:
        """Where the merge is its base; None where no values say so, and the donor is meant."""

    @property
    def donor(self) -> Checkpoint:
        """The model whose network fits."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a fill writes."""

    def fill(self, values: Values, places: Mapping[str, Tensor]) -> None:
        """Write the merge at `values` into `places`."""


@dataclass(frozen=True)
class Probe:
    """One merge, measured: its settings (None: the donor as it is), the figure by item, and the seconds of merging and of all."""

    values: Values | None
    amounts: Amounts
    seconds: float
    merging: float

    @property
    def mean(self) -> float:
        """The figure: word errors for each word, or nats for each token."""
        return sum(self.amounts[0]) / sum(self.amounts[1])

    @property
    def bounds(self) -> tuple[float, float]:
        """Its 95 % interval over items."""
        return rate_interval(*self.arrays)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Amounts and sizes (n,)."""
        return np.array(self.amounts[0]), np.array(self.amounts[1])


class Bench:
    """Measures merges in a network whose weights it may overwrite; `path` keeps every probe as soon as it is made.

    `stamp` is all that the merged weights depend on beside the values: probes under another one, or of other data, are not used again.
    """

    def __init__(self, merging: Merging, objective: Objective, places: Mapping[str, Tensor], path: Path, stamp: Any) -> None:
        """Read what an earlier run left."""
        self._merging, self._objective, self._places, self._path = merging, objective, places, path
        told = [version("asrlife"), stamp, objective.metric, objective.fingerprint]
        self._key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        self._kept = _read(path, self._key)
        self.used: dict[str, Probe] = {}
        self.measured = 0
        self.advance: Callable[[], None] = lambda: None

    def at(self, values: Values | None) -> Probe:
        """The probe at `values`, rounded to six digits so that they can be written down; InputError where nothing can be scored."""
        values = None if values is None else {name: float(f"{value:.6g}") for name, value in values.items()}
        key = json.dumps(values, sort_keys=True)
        if key not in self.used:
            if key not in self._kept:
                self._kept[key] = self._measure(values)
                self.measured += 1
                self._keep()
            self.used[key] = self._kept[key]
            self.advance()
        return self.used[key]

    def _measure(self, values: Values | None) -> Probe:
        begin = time.perf_counter()
        with torch.no_grad():
            if values is None:
                for name, place in self._places.items():
                    place.copy_(self._merging.donor[name])
            else:
                self._merging.fill(values, self._places)
        merged = time.perf_counter()
        amounts = self._objective.measure()
        if not sum(amounts[1]):
            raise InputError("the references hold no words: give data with text")
        return Probe(values, amounts, time.perf_counter() - begin, merged - begin)

    def _keep(self) -> None:
        with atomic(self._path, "w") as file:
            json.dump({"key": self._key, "probes": [asdict(probe) for probe in self._kept.values()]}, file)


def _read(path: Path, key: str) -> dict[str, Probe]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != key:
            return {}
        probes = [Probe(p["values"], (tuple(p["amounts"][0]), tuple(p["amounts"][1])), p["seconds"], p["merging"]) for p in found["probes"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} does not read ({error}): remove it, and what was measured is measured again") from error
    return {json.dumps(probe.values, sort_keys=True): probe for probe in probes}


@contextmanager
def places(module: nn.Module, donor: Checkpoint, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Tensors of the network, by the names that the donor's files have, to be overwritten until the end.

    Raises InputError where a tensor of the file is not in the network as it is in the file.
    """
    state = module.state_dict()
    known = {name: _known(name, state, donor) for name in names}
    with overwritten(module, list(known.values())) as found:
        yield {name: found[inner] for name, inner in known.items()}


def _known(name: str, state: Mapping[str, Tensor], donor: Checkpoint) -> str:
    spelt = [name, *(name.removesuffix(old) + new for old, new in _PAIRS if name.endswith(old))]
    near = [inner for inner in state if any(inner == one or inner.endswith(f".{one}") or one.endswith(f".{inner}") for one in spelt)]
    for inner in near:
        there, here = state[inner], donor.raw(name)
        if there.shape == here.shape and torch.equal(there, here.to(there.dtype)):
            return inner
    raise InputError(
        f"search: the network of {donor.path} has no tensor that is {name!r} of its file: save the model once with save_pretrained, "
        "or leave the tensor out with select"
    )
