"""Three small Llamas that spell differently, and merges of them under mergekit's tokenizer options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SPELLINGS = {
    "a": ["<unk>", "the", "cat", "sat"],
    "b": ["<unk>", "cat", "the", "dog", "ran"],
    "c": ["<unk>", "dog", "bird", "the", "<|turn|>"],
}
WIDTH = 4
ALL = [
    {"model": "a", "parameters": {"weight": 0.5}},
    {"model": "b", "parameters": {"weight": 1.0}},
    {"model": "c", "parameters": {"weight": 2.0}},
]
CASES: dict[str, dict[str, Any]] = {
    "union": {"merge_method": "linear", "models": ALL, "tokenizer_source": "union"},
    "union with a base": {"merge_method": "task_arithmetic", "base_model": "a", "models": ALL[1:], "tokenizer": {"source": "union"}},
    "base": {"merge_method": "task_arithmetic", "base_model": "a", "models": ALL[1:], "tokenizer_source": "base"},
    "a model": {"merge_method": "linear", "models": ALL, "tokenizer": {"source": "c"}},
    "tokens": {
        "merge_method": "linear",
        "models": ALL,
        "tokenizer": {
            "source": "union",
            "pad_to_multiple_of": 8,
            "tokens": {
                "the": {"source": "c", "force": True},
                "cat": {"source": "b"},
                "bird": {"source": {"kind": "zero"}},
                "<|new|>": {"source": {"kind": "model_token", "model": "a", "token": "sat"}},
                "sat": {"source": {"kind": "model_token", "model": "b", "token_id": 4}},
            },
        },
    },
}  # fmt: skip


def rows(number: int, count: int, head: bool) -> torch.Tensor:
    """Rows of which sums and halves are exact in float32, and no two alike."""
    return torch.arange(count).float()[:, None] * 8 + number * 64 + torch.arange(WIDTH) / 8 + 512 * head


def build(place: Path, tied: bool = False) -> None:
    """The folders a, b and c in `place`; `tied`: their heads are their embeddings."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    for number, (name, spelt) in enumerate(SPELLINGS.items()):
        plain = [token for token in spelt if not token.startswith("<|")]
        tokenizer = Tokenizer(models.WordLevel({token: row for row, token in enumerate(plain)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = [token for token in spelt if token.startswith("<|")]
        speller = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", extra_special_tokens=special)
        speller.save_pretrained(place / name)
        torch.manual_seed(0)
        module = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=len(spelt),
                tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        module.model.embed_tokens.weight.data = rows(number, len(spelt), False)
        if not tied:
            module.lm_head.weight.data = rows(number, len(spelt), True)
        module.save_pretrained(place / name)


def read(folder: Path) -> dict[str, dict[str, list[float]]]:
    """By tensor, the row of every token and of the padding, of a merged folder."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    spelt = AutoTokenizer.from_pretrained(folder).get_vocab()
    found = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = next(t[name] for t in map(load_file, sorted(folder.glob("*.safetensors"))) if name in t)
        found[name] = {token: table[row].tolist() for token, row in spelt.items()}
        found[name] |= {f"padding {row}": table[row].tolist() for row in range(len(spelt), len(table))}
    return found
