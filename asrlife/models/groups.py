"""Which parameters belong to norms, the front-end, attention, the feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import nn

from asrlife.errors import InputError

FRONT_ENDS = {"feature_extractor", "feature_projection", "conv1", "conv2"}
CONVOLUTIONS = "feature_extractor"
FEED_FORWARD = {"feed_forward", "ffn1", "ffn2", "fc1", "fc2", "pos_ffn", "ffn_module1", "ffn_module2"}


def groups(module: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """Names of parameters as in `named_parameters()`, in its order.

    "norms": LayerNorm and GroupNorm tensors but those between convolutions of the front-end, whose output can so be kept.
    "features": the convolutional front-end and the projection behind it, norms and all. "norms+features" is the set that SUTA tunes
    (arXiv 2203.14222, section 2.3).
    """
    names = [name for name, _ in module.named_parameters()]
    modules = {prefix: child for prefix, child in module.named_modules() if prefix}
    belongs: dict[str, Callable[[str], bool]] = {
        "norms": lambda prefix: isinstance(modules[prefix], nn.LayerNorm | nn.GroupNorm),
        "features": _is_front_end,
        "attention": lambda prefix: "Attention" in type(modules[prefix]).__name__,
        "mlp": lambda prefix: prefix.rpartition(".")[2] in FEED_FORWARD,
    }
    owners = {group: {prefix for prefix in modules if found(prefix)} for group, found in belongs.items()}
    owners["norms"] = {prefix for prefix in owners["norms"] if CONVOLUTIONS not in prefix.split(".")}
    members = {group: tuple(name for name in names if not prefixes.isdisjoint(_around(name))) for group, prefixes in owners.items()}
    return members | {"biases": tuple(name for name in names if name.rpartition(".")[2] == "bias"), "all": tuple(names)}


def select(module: nn.Module, scope: str) -> tuple[str, ...]:
    """Unique names of the groups joined by "+" in the order of the module; raises InputError naming the groups there are."""
    known = groups(module)
    wanted = scope.split("+")
    for group in wanted:
        if group not in known:
            raise InputError(f"unknown group of parameters {group!r} in {scope!r}: use {', '.join(known)}, joined by '+'")
    chosen = {name for group in wanted for name in known[group]}
    if not chosen:
        raise InputError(f"this model has no parameters in {scope!r}: use another of {', '.join(known)}")
    return tuple(name for name in known["all"] if name in chosen)


def _is_front_end(name: str) -> bool:
    parts = name.split(".")
    if parts[-1] not in FRONT_ENDS:
        return False
    # conv1 and conv2 are Whisper's front-end only directly under its encoder
    return parts[-1].startswith("feature_") or parts[-2:-1] == ["encoder"]


def _around(name: str) -> Iterator[str]:
    """The modules around a parameter, from within."""
    while name := name.rpartition(".")[0]:
        yield name
