"""What a tensor is for and how deep it lies, told from its name alone: no list of architectures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from asrlife.errors import InputError

BUFFER, STATISTICS, WEIGHT_NORM = "buffer", "batchnorm", "weight-norm"
NORM, EMBEDDING, HEAD = "norm", "embedding", "head"
CROSS, CONV, ENCODER, DECODER, OTHER = "cross-attention", "conv", "encoder", "decoder", "other"
INPUT, OUTPUT = "input", "output"
PARTS = (INPUT, CONV, ENCODER, DECODER, OUTPUT, OTHER)
"""Stacks of layers and what lies before, behind and beside them, in the order in which sound or text runs through them."""

_PATTERNS: Mapping[str, str] = {
    # masks, positions and counters that nothing trains
    BUFFER: r"(^|\.)(position_ids|token_type_ids|num_batches_tracked|masked_bias|inv_freq|h\.\d+\.attn\.bias|attn\.attention\.bias)$",
    STATISTICS: r"(^|\.)(running_mean|running_var|num_batches_tracked)$",
    WEIGHT_NORM: r"(^|\.)(parametrizations\.weight\.original[01]|weight_[gv])$",
    NORM: r"(^|\.)(\w*(layer|rms|batch|group|instance)_?norm\d*|norm\d*|norm_\w+|\w+_norm\d*|ln_\w+|ln\d*)\.(weight|bias|gamma|beta)$",
    EMBEDDING: r"(^|\.)(\w*embed_?(tokens|positions|in)?|\w*embeddings?|wte|wpe|shared|masked_spec_embed|mask_emb)(\.(weight|bias))?$",
    HEAD: r"(^|\.)(lm_head|proj_out|embed_out|ctc_\w+|classifier|score|projector|quantizer|project_q|project_hid|predictions)\.",
    CROSS: r"(^|\.)(encoder_attn|cross_?attn|cross_?attention|EncDecAttention|enc_attn|multihead_attn)\w*(\.|$)",
    # the front-end alone: a conformer's convolutions are part of its encoder's body
    CONV: r"(^|\.)(feature_extractor\.|conv_layers\.\d+\.|encoder\.conv\d\.|pos_conv_embed\.|subsampl\w*\.|conv_subsampl\w*\.)",
    ENCODER: r"(^|\.)(encoder|audio_tower|speech_encoder|feature_extractor|feature_projection|masked_spec_embed|mask_emb)(\.|$)",
    DECODER: r"(^|\.)(decoder|language_model)\.|^(\w+\.)?(layers|h|blocks)\.\d+\.|^(model\.norm|\w+\.ln_f)\.",
}
ROLES = (*_PATTERNS, OTHER)
"""Every role, the most particular first: a tensor's own role is the first of those it has."""
_FOUND = {role: re.compile(pattern, re.IGNORECASE if role == NORM else 0) for role, pattern in _PATTERNS.items()}
_LAYER = re.compile(r"(^|\.)(conv_layers|layers|layer|h|blocks?)\.(\d+)(?=\.)")


@dataclass(frozen=True)
class Place:
    """All roles of a tensor, its own first, and the number of its layer, None outside layers.

    `roles` nest: the norm of a decoder's cross-attention is a norm, of the cross-attention, of the decoder.
    """

    roles: tuple[str, ...]
    layer: int | None

    @property
    def role(self) -> str:
        """The tensor's own role: the most particular one."""
        return self.roles[0]

    @property
    def part(self) -> str:
        """Where in the network it is: the stack whose layers are counted together, or the input or output outside stacks."""
        beside = {EMBEDDING: INPUT, HEAD: OUTPUT}.get(self.role, OTHER)
        return next((role for role in (CONV, ENCODER, DECODER) if role in self.roles), beside)


@lru_cache(maxsize=65536)
def place(name: str, dtype: torch.dtype | None = None) -> Place:
    """The place of the tensor `name`; integers, where `dtype` says so, are buffers whatever their name."""
    roles = [role for role in _FOUND if _FOUND[role].search(name)]
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex) and BUFFER not in roles:
        roles.insert(0, BUFFER)
    found = _LAYER.search(name)
    return Place(tuple(roles) or (OTHER,), int(found[3]) if found else None)


def depths(names: Iterable[str]) -> dict[str, int]:
    """How many layers each part has, by the names of a whole checkpoint."""
    found: dict[str, int] = {}
    for where in map(place, names):
        if where.layer is not None:
            found[where.part] = max(found.get(where.part, 0), where.layer + 1)
    return found


def renumbered(name: str, layer: int) -> str:
    """The name of the tensor `name` in another layer; outside layers the name itself."""
    found = _LAYER.search(name)
    return name if found is None else f"{name[: found.start(3)]}{layer}{name[found.end(3) :]}"


def weight_norms(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """By the name of each weight that is kept as a pair: the names of its gain g and direction v, weight = g v / |v|, whole pairs only."""
    pairs = {}
    for name in names:
        for gain, direction in (("parametrizations.weight.original0", "parametrizations.weight.original1"), ("weight_g", "weight_v")):
            path = name.removesuffix(gain)
            if path != name and path + direction in names:
                pairs[path + "weight"] = (name, path + direction)
    return pairs


def chosen(
    names: Iterable[str],
    pattern: str = "",
    *,
    roles: Collection[str] = (),
    without: Collection[str] = (),
    layers: tuple[int, int] | None = None,
) -> list[str]:
    """Names in which the regular expression `pattern` is found, of any of `roles` and none of `without`, in layers first to last.

    Raises InputError for a broken pattern, an unknown role, or layers that are no range; what lies outside layers has no depth and is
    left out where `layers` are asked for.
    """
    try:
        found = re.compile(pattern).search
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from error
    for role in (*roles, *without):
        if role not in ROLES:
            raise InputError(f"there is no role {role!r}: the roles are {', '.join(ROLES)}")
    first, last = layers or (0, 0)
    if not 0 <= first <= last:
        raise InputError(f"layers {first} to {last} are no range: count from 0, the lower one first")

    def fits(name: str) -> bool:
        where = place(name)
        deep = layers is None or (where.layer is not None and first <= where.layer <= last)
        return bool(found(name)) and deep and (not roles or _any(where, roles)) and not _any(where, without)

    return [name for name in names if fits(name)]


def _any(where: Place, roles: Collection[str]) -> bool:
    return any(role in where.roles for role in roles)
