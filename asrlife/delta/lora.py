"""LoRA adapters of peft as deltas and back, exactly: what would only be nearly the same is refused by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Change, Delta, Dense, LowRank, nearest
from asrlife.delta.fingerprint import EMBEDDINGS, State, fingerprint, unique
from asrlife.delta.roles import EMBEDDING, place
from asrlife.delta.shards import Shard
from asrlife.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGE = "merge it where peft is, with merge_and_unload() and save_pretrained(), and take the difference with `asrlife delta diff`"
INEXACT = (
    "use_dora", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config", "alora_invocation_tokens",
    "layer_replication", "target_parameters", "trainable_token_indices", "megatron_config",
)  # fmt: skip
"""Settings of peft under which an adapter is more than a sum of low-rank differences of whole matrices."""
PAIRS = {"lora_A.weight": "lora_B.weight", "lora_embedding_A": "lora_embedding_B"}
PAIRS |= {second: first for first, second in PAIRS.items()}
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it is."""
OUTPUTS = ("lm_head.weight", "proj_out.weight", "embed_out.weight")
CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""model_type of networks whose linear layers are stored transposed (transformers' Conv1D)."""


@dataclass(frozen=True)
class Settings:
    """What adapter_config.json says of scales: alpha / r, or alpha / sqrt(r) with rslora, both by module where patterns say so."""

    r: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    transposed: bool

    def rank(self, path: str) -> int:
        """The rank of the module `path`."""
        return self.ranks.get(_key(self.ranks, path), self.r)

    def scale(self, path: str) -> float:
        """By what the product of the factors of the module `path` is multiplied."""
        rank = self.rank(path)
        return self.alphas.get(_key(self.alphas, path), self.alpha) / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True, eq=False)
class Base:
    """The weights that an adapter is for: names as in the delta, which of them serve twice, which are stored transposed."""

    state: State
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: State) -> Base:
        """The base with its tensors by name, each once."""
        return cls(state, state if isinstance(state, Checkpoint) else dict(unique(state)))

    def find(self, name: str, source: object) -> str:
        """The name of a tensor that the adapter calls `name`: some files leave out, and some networks add, a first word."""
        if name in self.tensors:
            return name
        near = [known for known in self.tensors if known.endswith(f".{name}") or name.endswith(f".{known}")]
        if len(near) == 1:
            return near[0]
        if name.endswith(OUTPUTS):
            raise InputError(f"{source}: the base has no {name!r} of its own, it is tied to the embedding, which would move too: {MERGE}")
        raise InputError(f"{source}: the base has no {name!r}{nearest(name, self.tensors)}; give the base that the adapter was trained on")

    def tied(self, name: str) -> bool:
        """Whether an embedding also is the head, which an adapter on one of the two leaves alone."""
        if isinstance(self.state, nn.Module):
            same = self.tensors[name].data_ptr()
            return sum(tensor.data_ptr() == same for tensor in self.state.state_dict(keep_vars=True).values()) > 1
        if isinstance(self.state, Checkpoint) and name in self.state.tied.values():
            return True
        # files leave a tied head out
        told = isinstance(self.state, Checkpoint) and self.state.config.get("tie_word_embeddings") is False
        return name.endswith(EMBEDDINGS) and not told and not any(known.endswith(OUTPUTS) for known in self.tensors)

    def untied(self, name: str, source: object) -> str:
        """As `find`; InputError for a tied tensor."""
        name = self.find(name, source)
        if self.tied(name):
            raise InputError(f"{source}: {name!r} is tied to another tensor, which an adapter leaves alone and a delta would not: {MERGE}")
        return name

    def check(self, name: str, shape: tuple[int, ...], source: object) -> None:
        """Raise InputError where the tensor has not that shape."""
        wanted = tuple(self.tensors[name].shape)
        if wanted != tuple(shape):
            raise InputError(f"{source}: {name!r} has shape {list(wanted)} in the base, and the adapter's is {list(shape)}")

    def transposed(self, name: str) -> bool | None:
        """Whether a linear layer's weight is stored as (in, out); None where nothing tells."""
        if isinstance(self.state, nn.Module):
            return type(self.state.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D"
        kind = self.state.config.get("model_type") if isinstance(self.state, Checkpoint) else None
        return None if kind is None else kind in CONV1D and not name.endswith(OUTPUTS)


def read_lora(folder: Path, base: State) -> Delta:
    """The delta of a peft LoRA folder against `base`, whose names it has; factors stay factors, in float32 or better.

    Modules that were trained in full, and biases, become dense. Raises InputError for what is no plain LoRA (DoRA, AdaLoRA, adapters of
    tied tensors, bases changed by PiSSA ...), for pickles, and where names, ranks or shapes do not fit the base.
    """
    settings = _settings(folder)
    note = {"method": "lora", "rank": settings.r, "alpha": settings.alpha, "rslora": settings.rslora}
    return Delta(fingerprint(base), changes(folder, base), note)


def changes(folder: Path, base: State) -> dict[str, Change]:
    """The differences of `read_lora` by name, without a look at more of the base than they need."""
    tensors: dict[str, Change] = {}
    for name, change in _changes(folder, _settings(folder), Base.of(base)):
        if tensors.setdefault(name, change) is not change:
            raise InputError(f"{folder} moves {name!r} twice, by factors and in full: {MERGE}")
    return tensors


def write_lora(delta: Delta, folder: Path, base: State, name: str = "") -> None:
    """Write a low-rank delta as a folder that peft loads on `base`, scale 1; `name` is what its config says of the base.

    Raises InputError for a delta of another base, a dense or conv difference (named), or a folder that holds something already.
    """
    from safetensors.torch import save

    from asrlife.files import atomic

    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is there already: choose another place, or remove it first")
    if delta.base != fingerprint(base):
        raise InputError(f"the delta was made for base {delta.base[:12]}, not for {fingerprint(base)[:12]}: give its base")
    known = Base.of(base)
    tensors, ranks, transposed = _adapter(delta, known)
    packed = save(tensors, metadata={"format": "pt"})
    config = _config(ranks, transposed, name)
    with atomic(folder / WEIGHTS) as file:
        file.write(packed)
    with atomic(folder / CONFIG, "w") as file:
        json.dump(config, file, indent=2, sort_keys=True)


def _settings(folder: Path) -> Settings:
    config = _read_config(folder)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{folder} is a {config.get('peft_type')} adapter, not a LORA one: {MERGE}")
    for key in INEXACT:
        if config.get(key):
            raise InputError(f"{folder} has {key}, which no sum of low-rank differences gives exactly: {MERGE}")
    if config.get("init_lora_weights", True) not in STARTS:
        raise InputError(f"{folder} has init_lora_weights {config['init_lora_weights']!r}, which changed its base too: {MERGE}")
    try:
        ranks = {str(key): int(value) for key, value in (config.get("rank_pattern") or {}).items()}
        alphas = {str(key): float(value) for key, value in (config.get("alpha_pattern") or {}).items()}
        r, alpha = int(config["r"]), float(config.get("lora_alpha", 8))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} does not say r, lora_alpha and their patterns as peft does ({error})") from error
    if min(r, *ranks.values(), 10**6) < 1:
        raise InputError(f"{folder / CONFIG} has a rank below 1")
    return Settings(r, alpha, ranks, alphas, bool(config.get("use_rslora")), bool(config.get("fan_in_fan_out")))


def _read_config(folder: Path) -> Mapping[str, Any]:
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}: give the folder that peft's save_pretrained wrote")
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} has no {WEIGHTS}; adapter_model.bin is a pickle, which can run code: save it again with a newer peft")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / CONFIG} does not read ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG} is no JSON object")
    return config


def _key(patterns: Mapping[str, object], path: str) -> str:
    """The first pattern that matches, as peft chooses it."""
    try:
        return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), path)
    except re.error as error:
        raise InputError(f"a pattern of {CONFIG} is no regular expression: {error}") from error


def _changes(folder: Path, settings: Settings, base: Base) -> Iterator[tuple[str, Change]]:
    shard = Shard(folder / WEIGHTS)
    parts = {name.removeprefix("base_model.model."): shard.view(name) for name in shard.entries}
    if not parts:
        raise InputError(f"{folder / WEIGHTS} holds nothing: the adapter was saved without its weights")
    for name, tensor in parts.items():
        path, kind = _split(name)
        if kind in PAIRS:
            other = f"{path}.{PAIRS[kind]}"
            if other not in parts:
                raise InputError(f"{folder} has {name!r} and lacks {other!r}: copy the whole adapter again")
            if kind.endswith(("A", "A.weight")):
                yield _factors(folder, settings, base, path, tensor, parts[other], "embedding" in kind)
        elif kind == "lora_B.bias":
            yield _added(folder, base, path + ".bias", settings.scale(path) * _exact(tensor))
        elif "lora_" in kind or "trainable_tokens" in kind:
            raise InputError(f"{folder} has {name!r}, which is no part of a plain LoRA: {MERGE}")
        else:
            yield _full(folder, base, name.replace(".base_layer.", ".").replace(".modules_to_save.", "."), tensor)


def _split(name: str) -> tuple[str, str]:
    found = re.search(r"\.(lora_\w+(\.weight|\.bias)?|token_adapter\..*)$", name)
    return (name[: found.start()], found[1]) if found else (name, "")


def _factors(folder: Path, settings: Settings, base: Base, path: str, a: Tensor, b: Tensor, embedding: bool) -> tuple[str, Change]:
    name = base.untied(f"{path}.weight", folder)
    if a.shape[0] != settings.rank(path) or b.dim() < 2 or b.shape[1] != a.shape[0]:
        raise InputError(f"{folder}: factors {list(a.shape)} and {list(b.shape)} of {path!r} are not of rank {settings.rank(path)}")
    down, up = _exact(a), _exact(b) * settings.scale(path)
    change: Change
    if a.dim() > 2:  # a convolution, then one of kernel 1
        change = Dense((up.flatten(1) @ down.flatten(1)).reshape(b.shape[0], *a.shape[1:]))
    elif embedding or _swapped(base, name, (b.shape[0], a.shape[1]), settings.transposed):
        change = LowRank(down.T.contiguous(), up.T.contiguous())
    else:
        change = LowRank(up, down)
    base.check(name, change.shape, folder)
    return name, change


def _swapped(base: Base, name: str, product: tuple[int, int], told: bool) -> bool:
    """Whether the base stores the matrix as the transpose of the adapter's product; `told` is what the adapter says."""
    if product[0] != product[1]:
        return tuple(base.tensors[name].shape) == product[::-1]
    known = base.transposed(name)
    return told if known is None else known


def _full(folder: Path, base: Base, name: str, tensor: Tensor) -> tuple[str, Change]:
    name = base.untied(name, folder)
    base.check(name, tensor.shape, folder)
    return name, Dense(_exact(tensor) - _exact(base.tensors[name].detach()))


def _added(folder: Path, base: Base, name: str, value: Tensor) -> tuple[str, Change]:
    name = base.untied(name, folder)
    base.check(name, value.shape, folder)
    return name, Dense(value)


def _adapter(delta: Delta, base: Base) -> tuple[dict[str, Tensor], dict[str, int], set[bool]]:
    """Tensors of the file, ranks by module, and whether linear layers are stored transposed."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    stored: set[bool] = set()
    for name, change in delta.tensors.items():
        path = name.removesuffix(".weight")
        if not isinstance(change, LowRank) or path == name:
            raise InputError(f"{name!r} has no factors: an adapter holds low-rank differences of weights alone; restrict the delta to them")
        base.untied(name, "the delta")
        ranks[path] = change.rank
        if place(name).role == EMBEDDING:
            parts = {"lora_embedding_A": change.up.T, "lora_embedding_B": change.down.T}
        else:
            stored.add(swapped := bool(base.transposed(name)))
            up, down = (change.down.T, change.up.T) if swapped else (change.up, change.down)
            parts = {"lora_A.weight": down, "lora_B.weight": up}
        tensors |= {f"base_model.model.{path}.{key}": part.detach().cpu().contiguous() for key, part in parts.items()}
    if not tensors:
        raise InputError("the delta moves nothing: there is no adapter to write")
    return tensors, ranks, stored


def _config(ranks: Mapping[str, int], stored: set[bool], name: str) -> dict[str, Any]:
    """Scale 1 for every module: alpha is r, by pattern where ranks differ."""
    r = max(ranks.values())
    # anchored, since peft would match the end of a path
    patterns = {f"^{path}": rank for path, rank in ranks.items() if rank != r}
    return {
        "peft_type": "LORA", "r": r, "lora_alpha": r, "rank_pattern": patterns, "alpha_pattern": dict(patterns), "use_rslora": False,
        "target_modules": sorted(ranks), "fan_in_fan_out": True in stored, "bias": "none", "lora_dropout": 0.0, "use_dora": False,
        "modules_to_save": None, "init_lora_weights": True, "inference_mode": True, "task_type": None,
        "base_model_name_or_path": name or None,
    }  # fmt: skip


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
