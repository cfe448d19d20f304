"""Rows of embeddings and heads moved by the token that they are of, so that models of different tokenizers can be merged.

What tokens get where a model lacks them is mergekit 0.1.5's choice: what the file says, else the only model's that has them, else the
base's, else the mean of those that have them, else 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.checkpoint import HEADS, Checkpoint
from asrlife.delta.fingerprint import EMBEDDINGS
from asrlife.delta.shards import Entry
from asrlife.errors import InputError
from asrlife.methods.merge.companions import speller_of, vocabulary
from asrlife.methods.merge.config import MergeConfig, Token, TokenOf

BIASES = ("lm_head.bias", "embed_out.bias")
ZERO, MEAN = -1, -2


@dataclass(frozen=True, eq=False)
class Spelling:
    """The tokens of the result, `count` and then padding up to `size` rows, and where every model has them.

    `places` gives for each model the row of each token, -1 where it has none; `donors` and `rows` (count,) say from which model, ZERO or
    MEAN, tokens come where they are lacking, or, by `forced`, everywhere.
    """

    tokenizer: Any
    size: int
    places: Mapping[str, Tensor]
    donors: Tensor
    rows: Tensor
    forced: Tensor

    @property
    def count(self) -> int:
        """Tokens of the result."""
        return len(self.donors)

    def table(self, model: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """The rows (size, ...) of a model by the tokens of the result; `tensors` has those of all models, (rows, ...)."""
        own = (self.places[model] >= 0) & ~self.forced
        found = tensors[model].new_zeros((self.size, *tensors[model].shape[1:]), dtype=_widest(tensors.values()))
        found[: self.count] = self._others(tensors, ~own, found)
        found[: self.count][own] = tensors[model][self.places[model][own]].to(found.dtype)
        found[self.count :] = found[: self.count].mean(0)
        return found

    def _others(self, tensors: Mapping[str, Tensor], wanted: Tensor, like: Tensor) -> Tensor:
        found = torch.zeros_like(like[: self.count])
        order = {model: number for number, model in enumerate(self.places)}
        for model, tensor in tensors.items():
            here = wanted & (self.donors == order[model])
            found[here] = tensor[self.rows[here]].to(found.dtype)
            shared = wanted & (self.donors == MEAN) & (self.places[model] >= 0)
            found[shared] += tensor[self.places[model][shared]].to(found.dtype)
        mean = wanted & (self.donors == MEAN)
        counts = torch.stack([(self.places[model] >= 0) & mean for model in tensors]).sum(0)
        found[mean] /= counts[mean].reshape(-1, *[1] * (found.dim() - 1)).to(found.dtype)
        return found

    @cached_property
    def texts(self) -> dict[str, str]:
        """The tokenizer's files by name."""
        with TemporaryDirectory() as folder:
            self.tokenizer.save_pretrained(folder)
            return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir()) if path.is_file()}


class Respelt(Checkpoint):
    """The model `name` of a `family` with the rows of the result's tokens; what has no rows by token is as it was."""

    def __init__(self, name: str, family: Mapping[str, Checkpoint], spelling: Spelling) -> None:
        """List the tensors as they will be."""
        self._inner, self._family, self._name, self.spelling = family[name], family, name, spelling
        self._spelt: frozenset[str] = frozenset()
        super().__init__(self._inner.path, self._inner.shards)
        self._spelt = frozenset(filter(_by_token, self.stored))
        stored = {key: self._entry(key, entry) for key, entry in self.stored.items()}
        self.stored = MappingProxyType(stored)
        self.entries = MappingProxyType({key: entry for key, entry in stored.items() if key not in self.tied})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._spelt:
            return self._inner[name]
        return self.spelling.table(self._name, {key: model[name] for key, model in self._family.items() if name in model.stored})

    @property
    def moved(self) -> tuple[str, ...]:
        """What differs from the files."""
        return tuple(sorted({*getattr(self._inner, "moved", ()), *self._spelt}))

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the model."""
        return self._inner.files

    def fingerprint(self) -> str:
        """That of the model as it was."""
        return self._inner.fingerprint()

    def _entry(self, name: str, entry: Entry) -> Entry:
        if name not in self._spelt:
            return entry
        dtype = _widest(model[name] for model in self._family.values() if name in model.stored)
        return replace(entry, shape=(self.spelling.size, *entry.shape[1:]), dtype=dtype)


def respelt(config: MergeConfig, models: dict[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The models with rows in the order of the tokenizer that the merge asks for; as they are where all spell alike already.

    Raises InputError for a source that is no model, tokenizers that do not load, and tokens that their source has not.
    """
    source = speller_of(config, models)
    options = config.tokenizer
    more = options is not None and (options.tokens or options.pad_to_multiple_of)
    if source is None or not more and _alike(models):
        return models
    spelling = _spelling(config, models, source)
    return {name: Respelt(name, models, spelling) for name in models}


def _alike(models: Mapping[str, Checkpoint]) -> bool:
    known = [found for found in (vocabulary(model.folder) for model in models.values()) if found is not None]
    return all(found == known[0] for found in known)


def _spelling(config: MergeConfig, models: Mapping[str, Checkpoint], source: str) -> Spelling:
    from asrlife.models.text import speller

    spellers = {name: speller(model.folder) for name, model in models.items()}
    asked = dict(config.tokenizer.tokens or {}) if config.tokenizer else {}
    result = _result(
        spellers, {name: _count(name, model) for name, model in models.items()}, config.base_model or next(iter(models)), source
    )
    result.add_tokens([token for token in asked if token not in result.get_vocab()])
    tokens = [token for token, _ in sorted(result.get_vocab().items(), key=lambda pair: pair[1])]
    places = {name: _places(tokens, spellers[name].get_vocab(), _count(name, models[name])) for name in models}
    origins = [_origin(number, token, asked.get(token), config.base_model, places, spellers) for number, token in enumerate(tokens)]
    donors, rows = (torch.tensor(column) for column in zip(*origins, strict=True))
    step = (config.tokenizer.pad_to_multiple_of if config.tokenizer else None) or 1
    forced = torch.tensor([token in asked and asked[token].force for token in tokens])
    return Spelling(result, -(-len(tokens) // step) * step, places, donors, rows, forced)


def _result(spellers: Mapping[str, Any], counts: Mapping[str, int], base: str, source: str) -> Any:
    """The tokenizer of the result, in an object of its own."""
    from copy import deepcopy

    if source != "union":
        return deepcopy(spellers[base if source == "base" else source])
    result = deepcopy(spellers[base])
    for name, other in spellers.items():
        known, special = result.get_vocab(), other.added_tokens_decoder
        spelt = {entry.content for entry in special.values()}
        plain = sorted((number, token) for token, number in other.get_vocab().items() if number < counts[name])
        result.add_tokens([token for _, token in plain if token not in known and token not in spelt])
        result.add_tokens([entry for number, entry in sorted(special.items()) if number < counts[name] and entry.content not in known])
    return result


def _places(tokens: list[str], known: Mapping[str, int], count: int) -> Tensor:
    rows = (known.get(token, -1) for token in tokens)
    return torch.tensor([row if row < count else -1 for row in rows])


def _origin(
    number: int, token: str, asked: Token | None, base: str | None, places: Mapping[str, Tensor], spellers: Mapping[str, Any]
) -> tuple[int, int]:
    """The model that a token comes from where it is lacking, and its row there."""
    having = [name for name, rows in places.items() if rows[number] >= 0]
    if asked is not None and asked.source is not None:
        return _asked(number, token, asked.source, places, spellers)
    if asked is not None and (asked.force or len(having) < len(places)):
        raise InputError(f"tokenizer.tokens.{token} needs a source: a model, or {{kind: zero}}")
    if not having:
        return ZERO, -1
    donor = having[0] if len(having) == 1 else base if base in having else None
    return (MEAN, -1) if donor is None else (list(places).index(donor), int(places[donor][number]))


def _asked(number: int, token: str, source: str | TokenOf, places: Mapping[str, Tensor], spellers: Mapping[str, Any]) -> tuple[int, int]:
    if source == "zero":
        return ZERO, -1
    model = source.model if isinstance(source, TokenOf) else str(source)
    if model not in places:
        raise InputError(f"tokenizer.tokens.{token}: the source {model!r} is none of the models {', '.join(places)}")
    row = int(places[model][number])
    if isinstance(source, TokenOf):
        row = spellers[model].get_vocab().get(source.token, -1) if source.token is not None else int(source.token_id or 0)
    if row < 0:
        raise InputError(f"tokenizer.tokens.{token}: {model} has no token {getattr(source, 'token', token)!r}")
    return list(places).index(model), row


def _by_token(name: str) -> bool:
    return name.endswith((*EMBEDDINGS, *HEADS, *BIASES)) and "position" not in name and "token_type" not in name


def _count(name: str, model: Checkpoint) -> int:
    """Rows that a model has for its tokens."""
    found = {entry.shape[0] for key, entry in model.stored.items() if _by_token(key) and entry.shape}
    if len(found) != 1:
        raise InputError(f"tokenizer: {name} has {'no table' if not found else 'tables of different length'} with a row for each token")
    return int(found.pop())


def _widest(tensors: Iterable[Tensor]) -> torch.dtype:
    dtypes = [tensor.dtype for tensor in tensors]
    found = dtypes[0]
    for dtype in dtypes[1:]:
        found = torch.promote_types(found, dtype)
    return found
