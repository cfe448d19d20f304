"""Surgery: what the merged model's last states lack of an expert's, given back by a small layer of its own for each task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.shards import Shard
from asrlife.errors import InputError
from asrlife.files import atomic
from asrlife.methods.merge.cards import card_of
from asrlife.methods.merge.moments import watched
from asrlife.methods.merge.subject import Subject, head_of

FORMAT = "asrlife surgery"
STEPS, RATE, ROWS = 1000, 1e-3, 1024


@dataclass(frozen=True, eq=False)
class Surgery:
    """z - A relu(B z) in place of the last states z (arXiv 2402.02705): `up` A (width, rank), `down` B (rank, width).

    It cannot be folded into weights, and stands in a file of its own; `operated` puts it into a model.
    """

    up: Tensor
    down: Tensor
    card: Mapping[str, Any]

    def of(self, states: Tensor) -> Tensor:
        """States (..., width) operated on."""
        up, down = self.up.to(states), self.down.to(states)
        return states - torch.relu(states @ down.T) @ up.T

    def write(self, path: Path) -> Path:
        """A safetensors file and its card of the same name in JSON, each whole or not at all."""
        text = json.dumps(self.card, indent=2, ensure_ascii=False) + "\n"
        told = {"format": FORMAT, "card": hashlib.sha256(text.encode()).hexdigest()}
        with atomic(path.with_suffix(".json"), "w") as file:
            file.write(text)
        with atomic(path) as file:
            file.write(save({"up": self.up.contiguous(), "down": self.down.contiguous()}, told))
        return path

    @classmethod
    def read(cls, path: Path) -> Surgery:
        """What `write` wrote; InputError for any other file, and for a card that is not its own."""
        shard = Shard(path)
        if shard.metadata.get("format") != FORMAT or set(shard.entries) != {"up", "down"}:
            raise InputError(f"{path} holds no surgery: make it with `asrlife repair MODEL --method surgery`")
        card = card_of(shard, path)
        up, down = shard.view("up").clone(), shard.view("down").clone()
        if up.dim() != 2 or up.shape != down.T.shape:
            raise InputError(f"{path}: up {list(up.shape)} and down {list(down.shape)} are not of one width and rank: make it again")
        return cls(up, down, card)


@contextmanager
def operated(module: nn.Module, surgery: Surgery) -> Iterator[None]:
    """Let the head of `module` see its states operated on; the network itself stays as it is.

    >>> with operated(model.module, Surgery.read(path)):
    ...     model.transcribe(waveforms)

    Raises InputError for a model of another fingerprint than the one that the surgery was made for.
    """
    wanted, found = surgery.card.get("fingerprint"), fingerprint(module)
    if wanted != found:
        raise InputError(f"the surgery was made for model {str(wanted)[:12]}, not for this one ({found[:12]}): repair this one")
    _, head = head_of(module, type(module).__name__)
    handle = head.register_forward_pre_hook(lambda _, inputs: (surgery.of(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def states(shown: Subject, advance: Callable[[], None] = lambda: None) -> Tensor:
    """What the head is given for all examples, (steps, width)."""
    name, head = shown.head
    found: list[Tensor] = []
    now = 0

    def taken(_: str, rows: Tensor) -> None:
        found.append(shown.sound(name, rows, now).reshape(-1, rows.shape[-1]).cpu())

    with watched({name: head}, "in", taken):
        for index in range(len(shown)):
            now = index
            shown.show(index)
            advance()
    return torch.cat(found)


def operate(
    own: Tensor, wanted: Tensor, rank: int = 16, *, steps: int = STEPS, rate: float = RATE, seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor, float, float]:  # fmt: skip
    """A and B with the least mean |z - A relu(B z) - z'| over states z (steps, width) of the merged model and z' of the expert.

    Adam, `ROWS` states at a time drawn by `seed`; A starts at 0, where the model is as it was. Also the mean before and after.
    Raises InputError for states that do not belong together, or a rank outside 1..width.
    """
    if own.shape != wanted.shape:
        raise InputError(f"states {list(own.shape)} of the model and {list(wanted.shape)} of the expert: give models of one architecture")
    width = own.shape[1]
    if not 1 <= rank <= width:
        raise InputError(f"rank {rank} of states of width {width}: choose 1 to {width}")
    generator = torch.Generator().manual_seed(seed)
    down = ((torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width)).requires_grad_(True)
    up = torch.zeros(width, rank, requires_grad=True)
    optimiser = torch.optim.Adam([up, down], lr=rate)
    for _ in range(steps):
        chosen = torch.randint(len(own), (min(ROWS, len(own)),), generator=generator)
        loss = (own[chosen] - torch.relu(own[chosen] @ down.T) @ up.T - wanted[chosen]).abs().mean()
        up.grad, down.grad = torch.autograd.grad(loss, (up, down))
        optimiser.step()
        advance()
    found = Surgery(up.detach(), down.detach(), {})
    return found.up, found.down, float((own - wanted).abs().mean()), float((found.of(own) - wanted).abs().mean())
