"""Causal language models: any checkpoint folder of the Hugging Face kind, and the one that ships with asrlife."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.models.handle import Taught
from asrlife.models.load import ASSETS, downloaded

EMBEDDED = ("lm",)
INSTEAD = "give the folder of a causal language model, or use embedded:lm"


@dataclass(frozen=True, eq=False)
class TextModel:
    """A causal language model with its tokenizer; `module` is float32 and in evaluation mode."""

    name: str
    module: Any
    speller: Any
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def twin(self) -> TextModel:
        """The same weights in a network of its own."""
        from asrlife.models.handle import twin

        return replace(self, module=twin(self.module))

    def fingerprint(self) -> str:
        """SHA-256 over parameters and buffers."""
        from asrlife.delta.fingerprint import fingerprint

        return fingerprint(self.module)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def end(self) -> int:
        """The token that ends a text."""
        found = self.speller.eos_token_id
        if found is None:
            raise InputError(f"{self.name} has no token that ends a text: set eos_token in its tokenizer_config.json")
        return int(found)

    @property
    def places(self) -> int:
        """How many tokens the network has positions for; a billion where its configuration sets no bound."""
        return int(getattr(self.module.config, "max_position_embeddings", 0) or 10**9)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text with what the tokenizer puts before it, without an end."""
        found = list(self.speller(text).input_ids)
        return found[:-1] if len(found) > 1 and found[-1] == self.end else found

    @torch.inference_mode()
    def complete(self, prompts: Sequence[str], most: int = 24, batch_size: int = 256) -> list[str]:
        """The greedy continuation of each prompt, at most `most` tokens, ending where the model ends it.

        Only prompts of one length share a batch, so that nothing is padded and no prompt feels another.
        """
        rows = [self.ids(prompt) for prompt in prompts]
        texts = [""] * len(rows)
        for places in _alike([len(row) for row in rows], batch_size):
            made = self._continue(torch.tensor([rows[place] for place in places], device=self.device), most)
            for place, ids in zip(places, made.tolist(), strict=True):
                kept = ids[: ids.index(self.end)] if self.end in ids else ids
                texts[place] = str(self.speller.decode(kept, skip_special_tokens=True))
        return texts

    def _continue(self, ids: Tensor, most: int) -> Tensor:
        if not ids.shape[1]:
            raise InputError("an empty prompt cannot be completed by this model: its tokenizer puts nothing before a text")
        settings: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        out = self.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, eos_token_id=self.end, pad_token_id=self.end, **settings
        )
        return out[:, ids.shape[1] :]

    def spelt(self, prompt: str, text: str) -> tuple[list[int], int]:
        """Tokens of a whole `text` and its end, and how many of them are of the `prompt` that it begins with."""
        whole, first = self.ids(text), self.ids(prompt)
        shared = next((place for place, (one, two) in enumerate(zip(whole, first, strict=False)) if one != two), len(first))
        return [*whole, self.end], min(shared, len(whole))

    def surprise(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> list[Tensor]:
        """Negative log-likelihood in nats of every token of each (prompt, text) behind the prompt, the end of the text included."""
        rows = [self.spelt(prompt, text) for prompt, text in pairs]
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for places in _alike([len(ids) for ids, _ in rows], batch_size):
            each = self.losses(torch.tensor([rows[place][0] for place in places], device=self.device))
            for place, losses in zip(places, each, strict=True):
                found[place] = losses[max(0, rows[place][1] - 1) :]
        return found

    @torch.inference_mode()
    def follows(self, pairs: Sequence[tuple[str, str]], batch_size: int = 128) -> list[bool]:
        """Whether every token of each (prompt, text) behind the prompt is the likeliest after the text's own tokens before it."""
        rows = [self.spelt(prompt, text) for prompt, text in pairs]
        found = [False] * len(rows)
        for places in _alike([len(ids) for ids, _ in rows], batch_size):
            ids = torch.tensor([rows[place][0] for place in places], device=self.device)
            same = self.module(ids[:, :-1]).logits.argmax(-1) == ids[:, 1:]
            for place, row in zip(places, same, strict=True):
                found[place] = bool(row[max(0, rows[place][1] - 1) :].all())
        return found

    def loss(self, texts: Sequence[str]) -> Tensor:
        """Cross-entropy per token of whole texts and their ends, a scalar with gradient."""
        return self.taught(texts).loss

    def taught(self, texts: Sequence[str]) -> Taught:
        """The cross-entropy and the logits (tokens, classes) that predict every token but the first, from one padded forward.

        Raises InputError for a text without tokens, or with more than the network has positions for.
        """
        rows = [[*self.ids(text), self.end] for text in texts]
        longest, room = max(map(len, rows)), self.places
        if min(map(len, rows)) < 2 or longest > room + 1:
            raise InputError(f"texts of {min(map(len, rows))} to {longest} tokens: give at least 2 and at most {room + 1}; split long ones")
        ids = torch.full((len(rows), longest), self.end, device=self.device)
        known = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, device=self.device)
            known[place, : len(row)] = 1
        logits = self.module(ids[:, :-1], attention_mask=known[:, :-1]).logits.float()
        counted = known[:, 1:].bool()
        return Taught(nn.functional.cross_entropy(logits[counted], ids[:, 1:][counted]), int(counted.sum()), logits[counted])

    @torch.inference_mode()
    def losses(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood of every token but the first, (batch, length - 1)."""
        scores = self.module(ids[:, :-1]).logits.float()
        return nn.functional.cross_entropy(scores.transpose(1, 2), ids[:, 1:], reduction="none")

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean negative log-likelihood of all tokens of the texts, ends included."""
        if not texts:
            raise InputError("no text has no perplexity: give at least one")
        losses = torch.cat(self.surprise([("", text) for text in texts]))
        return math.exp(float(losses.double().mean()))

    def save(self, folder: Path) -> Path:
        """Write weights, tokenizer and card as a checkpoint folder that `load_text` and transformers read."""
        from asrlife.models.checkpoint import quiet

        with quiet():
            self.module.save_pretrained(folder)
            self.speller.save_pretrained(folder)
        return folder


def load_text(name: str | os.PathLike[str]) -> TextModel:
    """Load a causal language model by name: "embedded:lm", the folder of a Hugging Face checkpoint, or a hub id "owner/name".

    Raises InputError for a name that leads nowhere and for anything but a whole, finite checkpoint without pickles and with a tokenizer.
    """
    text = os.fspath(name)
    folder = _embedded(text) if text.startswith("embedded:") else Path(text).expanduser()
    return _read(folder if folder.is_dir() else downloaded(text, INSTEAD), text)


def known_texts() -> Mapping[str, Path]:
    """The embedded language models that are installed."""
    return {f"embedded:{name}": ASSETS / name for name in EMBEDDED if (ASSETS / name / "config.json").is_file()}


def _embedded(text: str) -> Path:
    if text.removeprefix("embedded:") not in EMBEDDED:
        known = ", ".join(f"embedded:{name}" for name in EMBEDDED)
        raise InputError(f"there is no language model {text}: use {known}; recognisers are loaded with asrlife.load")
    if text not in known_texts():
        raise InputError(f"{text} is not in this installation: train it with `asrlife recipe run embedded --step lm`")
    return ASSETS / text.removeprefix("embedded:")


def _read(folder: Path, name: str) -> TextModel:
    from transformers import AutoModelForCausalLM

    from asrlife.models.checkpoint import card_of, read_weights
    from asrlife.models.vocabulary import read_json

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: {INSTEAD}")
    architecture = (read_json(folder / "config.json").get("architectures") or ["unnamed"])[0]
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(f"{folder} is a {architecture}, which is no causal language model: {INSTEAD}")
    return TextModel(name, read_weights(folder, AutoModelForCausalLM), speller(folder), card=card_of(folder))


def speller(folder: Path) -> Any:
    """The tokenizer of a checkpoint's folder; InputError where there is none that loads."""
    from transformers import AutoTokenizer

    from asrlife.models.checkpoint import quiet

    with quiet():
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the library tokenizers raises no other class
            raise InputError(f"{folder} has no tokenizer that loads ({error}): copy tokenizer.json beside the weights") from error


def _alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of equal length together, `most` at once."""
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(length, []).append(place)
    for places in groups.values():
        yield from (places[start : start + most] for start in range(0, len(places), most))
