"""A merge as text: mergekit's YAML as it is, and a few keys more (`select`, `accumulate_dtype`, `seed`, `search`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from asrlife.delta.roles import ROLES
from asrlife.errors import InputError
from asrlife.methods.merge.registry import METHODS
from asrlife.methods.merge.values import fault
from asrlife.methods.settings import nearest

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64,
}  # fmt: skip
OTHER_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp64": "float64"}
Read = TypeVar("Read", bound=BaseModel)
ELSEWHERE = {
    "eval": "measure the result with `asrlife evaluate` or `asrlife text evaluate`",
    "residual_weight": "mergekit itself reads it and does nothing with it: leave it out",
    "experts": "a mixture of experts is built by mergekit-moe, not merged",
}
"""Keys that mean something to somebody and nothing here, with what to do instead."""


def _reference(value: Any) -> Any:
    """A model as mergekit names it: text, or {model: {path, revision}, lora: {path}}, which is MODEL+ADAPTER; revisions are refused."""
    adapter = None
    while isinstance(value, Mapping):
        if value.get("lora") is not None:
            adapter = _reference(value["lora"])
        for key, found in value.items():
            if key not in {"model", "path", "lora"} and found is not None:
                raise ValueError(f"a model with its own {key!r} ({found!r}) is not supported: give the path of a whole checkpoint")
        value = value.get("model", value.get("path"))
    return value if adapter is None else f"{value}+{adapter}"


def _dtype(value: Any) -> Any:
    text = str(value).removeprefix("torch.")
    text = OTHER_NAMES.get(text, text)
    if text not in DTYPES:
        raise ValueError(f"no dtype that weights are merged in; {nearest(text, DTYPES)}")
    return text


def _parameters(value: Any) -> Any:
    for key, setting in value.items() if isinstance(value, Mapping) else ():
        found = fault(setting)
        if found:
            raise ValueError(f"{key!r} {found}")
    return value


Reference = Annotated[str, BeforeValidator(_reference)]
Dtype = Annotated[str, BeforeValidator(_dtype)]
Parameters = Annotated[dict[str, Any], BeforeValidator(_parameters)] | None


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Source(_Group):
    """Layers `layer_range[0]` to before `layer_range[1]` of a model, with parameters of their own."""

    model: Reference
    layer_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    parameters: Parameters = None

    @model_validator(mode="after")
    def _rising(self) -> Source:
        if self.layer_range[0] >= self.layer_range[1]:
            raise ValueError(f"layer_range {list(self.layer_range)} is empty: give the first layer and the one after the last")
        return self


class Model(_Group):
    """A whole model, with parameters of its own."""

    model: Reference
    parameters: Parameters = None


class Slice(_Group):
    """Layers of the result, merged from as many layers of each source."""

    sources: tuple[Source, ...] = Field(min_length=1)
    base_model: Reference | None = None
    parameters: Parameters = None

    @model_validator(mode="after")
    def _level(self) -> Slice:
        lengths = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        if len(set(lengths)) > 1:
            raise ValueError(f"sources of {', '.join(map(str, lengths))} layers: all of a slice must have as many")
        return self


class Module(_Group):
    """What one stack of layers (encoder, decoder ...) is made of: whole models or slices."""

    models: tuple[Model, ...] | None = None
    slices: tuple[Slice, ...] | None = None
    parameters: Parameters = None

    @model_validator(mode="after")
    def _one(self) -> Module:
        if bool(self.models) == bool(self.slices):
            raise ValueError("give either 'models' or 'slices'")
        return self


class TokenOf(_Group):
    """A row of a model by its token or its number."""

    model: Reference
    token: str | None = None
    token_id: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenOf:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("give either token or token_id")
        return self


def _row(value: Any) -> Any:
    """mergekit's {kind: zero}, {kind: model_token, model, token | token_id} or a model."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind is None:
        return _reference(value)
    if kind == "zero":
        return "zero"
    if kind != "model_token":
        raise ValueError(f"kind {kind!r} is neither zero nor model_token")
    return TokenOf.model_validate({key: entry for key, entry in value.items() if key != "kind"})


class Token(_Group):
    """Where the rows of a token come from in models that lack it, or, under `force`, in all."""

    source: Annotated[str | TokenOf | None, BeforeValidator(_row)] = None
    force: bool = False


class Tokenizer(_Group):
    """Whose tokenizer the result has: the base's, the union of all, or that of a model; rows are padded with their mean."""

    source: Reference = "union"
    tokens: dict[str, Token] | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None


class Select(_Group):
    """Which tensors are merged, the others being the base's: by regular expression, role and layers, as in `asrlife delta`."""

    pattern: str = ""
    roles: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    layers: tuple[int, int] | None = None


class Search(_Group):
    """Settings that are chosen by measuring merges on `data`: their limits by name, and how many merges may be measured.

    A name is a setting that all models share ("scale"), or that of one of `models` ("models.0.weight", "NAME.weight").
    """

    data: str
    split: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    metric: Literal["wer", "perplexity"] | None = None
    parameters: Annotated[dict[str, tuple[float, float]], Field(min_length=1)]
    probes: Annotated[int, Field(ge=4)] = 12
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sound(self) -> Search:
        for name, (low, high) in self.parameters.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"parameters.{name} is {[low, high]}: give the lowest and the highest value to try")
        if self.split == "test":
            raise ValueError("split test: what is chosen on the test split cannot be tested on it any more: search on dev")
        return self


GROUPS: Mapping[Any, type[_Group]] = {
    "models": Model, "sources": Source, "slices": Slice, "modules": Module, "tokenizer": Tokenizer, "tokens": Token, "select": Select,
    "search": Search,
}  # fmt: skip


def _select(value: Any) -> Any:
    # one word is a role where there is such a role, else a regular expression
    return ({"roles": [value]} if value in ROLES else {"pattern": value}) if isinstance(value, str) else value


class MergeConfig(_Group):
    """A merge: a method, models | slices | modules, and settings; parameters of sources go before those of slices, models, all."""

    merge_method: str
    models: tuple[Model, ...] | None = None
    slices: tuple[Slice, ...] | None = None
    modules: dict[str, Module] | None = None
    base_model: Reference | None = None
    parameters: Parameters = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Reference | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    select: Annotated[Select, BeforeValidator(_select)] = Select()
    accumulate_dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    search: Search | None = None

    @model_validator(mode="after")
    def _whole(self) -> MergeConfig:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of models, slices and modules: it has {' and '.join(given) or 'none'}")
        if self.merge_method not in METHODS:
            raise ValueError(f"unknown merging method {self.merge_method!r}; {nearest(self.merge_method, METHODS)}")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("give tokenizer or tokenizer_source, not both")
        return self

    @property
    def references(self) -> tuple[str, ...]:
        """All models that are named, each once, the base first."""
        return tuple(dict.fromkeys(([self.base_model] if self.base_model else []) + list(self._named())))

    def _named(self) -> Iterator[str]:
        groups: list[MergeConfig | Module] = [self, *(self.modules or {}).values()]
        for group in groups:
            yield from (entry.model for entry in group.models or ())
            for part in group.slices or ():
                yield from ([part.base_model] if part.base_model else [])
                yield from (source.model for source in part.sources)


def read(path: str | Path) -> MergeConfig:
    """The merge that a YAML file asks for; InputError that names the key where the file says what cannot be done."""
    where = Path(path).expanduser()
    try:
        data = yaml.safe_load(where.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    return parse(data, str(where))


def parse(data: Any, where: str = "merge") -> MergeConfig:
    """The merge that `data`, a mapping as YAML gives it, asks for; `where` begins the message of an InputError."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: should be a mapping with merge_method and models")
    return checked(MergeConfig, data, where)


def checked(kind: type[Read], data: Any, where: str) -> Read:
    """`data` as a group of the file; `where` begins the message of an InputError, which names the key at fault."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        # a misspelt key is both unknown and missing; the misspelling is what to name
        first = next((found for found in faults if found["type"] == "extra_forbidden"), faults[0])
        raise InputError(f"{where}: {_reason(first, kind)}") from None


def _reason(found: Any, kind: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        key = str(found["loc"][-1])
        group = next((GROUPS[part] for part in reversed(found["loc"][:-1]) if part in GROUPS), kind)
        return f"{place!r} is not supported; {ELSEWHERE.get(key) or nearest(key, group.model_fields)}"
    if found["type"] == "missing":
        return f"the key {place!r} is missing"
    return f"{place + ': ' if place else ''}{found['msg'].removeprefix('Value error, ')}"
