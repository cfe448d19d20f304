"""Merging methods by name, with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from asrlife.errors import InputError
from asrlife.methods.merge.adamerging import AdaMerging
from asrlife.methods.merge.attention import SaMerge
from asrlife.methods.merge.emr import Emr
from asrlife.methods.merge.evidence import Fisher, RegMean
from asrlife.methods.merge.linear import Linear, Passthrough
from asrlife.methods.merge.method import Method
from asrlife.methods.merge.selection import ArceeFusion, ModelStock, NearSwap, Ram, RamPlus, Sce
from asrlife.methods.merge.spectral import IsoC, IsoCts, Knots, TsvM
from asrlife.methods.merge.spherical import Karcher, MultiSlerp, NuSlerp, Slerp
from asrlife.methods.merge.vectors import (
    Breadcrumbs,
    BreadcrumbsTies,
    DareLinear,
    DareTies,
    Della,
    DellaLinear,
    TaskArithmetic,
    TaskVectors,
    Ties,
)
from asrlife.methods.settings import nearest, typed

METHODS: Mapping[str, type[Method]] = {
    "linear": Linear,
    "passthrough": Passthrough,
    "slerp": Slerp,
    "nuslerp": NuSlerp,
    "multislerp": MultiSlerp,
    "karcher": Karcher,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
    "dare_linear": DareLinear,
    "dare_ties": DareTies,
    "breadcrumbs": Breadcrumbs,
    "breadcrumbs_ties": BreadcrumbsTies,
    "della": Della,
    "della_linear": DellaLinear,
    "model_stock": ModelStock,
    "sce": Sce,
    "ram": Ram,
    "ramplus_tl": RamPlus,
    "nearswap": NearSwap,
    "arcee_fusion": ArceeFusion,
    "tsv_m": TsvM,
    "iso_c": IsoC,
    "iso_cts": IsoCts,
    "knots": Knots,
    "fisher": Fisher,
    "regmean": RegMean,
    "adamerging": AdaMerging,
    "emr": Emr,
    "sa_merge": SaMerge,
}

_LOTS: Mapping[str, Any] = {"rescale": "l1", "normalize": False, "density": 1.0}
MERGEKIT: Mapping[str, Mapping[str, Any]] = {
    "ties": {"density": 1.0},
    "dare_linear": _LOTS,
    "dare_ties": _LOTS,
    "breadcrumbs": {"density": 1.0},
    "breadcrumbs_ties": {"density": 1.0},
    "della": {**_LOTS, "normalize": True},
    "della_linear": _LOTS,
}
"""Where the defaults of mergekit 0.1.5 are not the paper's, shared settings and those of each model: a file written for it means these."""

_KEYWORD = "lambda"  # of Python: what it scales is a field named so


def _fields(kind: type[Method]) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(kind))  # type: ignore[arg-type] # every method is a dataclass


def make(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with the paper's settings, over them `settings`, which may be text, as from a command line.

    `lambda` is another name of `scale`; mergekit's `int8_mask`, about what it holds in memory, is taken where mergekit takes it and
    changes nothing. An unknown name or key raises InputError with the nearest one, a value outside its limits one that states them.
    """
    if name not in METHODS:
        raise InputError(f"unknown merging method {name!r}; {nearest(name, METHODS)}")
    kind = METHODS[name]
    given = dict(settings or {})
    if issubclass(kind, TaskVectors | Sce):
        given.pop("int8_mask", None)
    if _KEYWORD in given and "scale" in _fields(kind):
        if "scale" in given:
            raise InputError(f"{name}: lambda and scale are one setting: give one of them")
        given["scale"] = given.pop(_KEYWORD)
    return kind(**typed(kind, given, name))
