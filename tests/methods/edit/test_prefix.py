"""Rows of which only the end is run say what whole rows say, each alone, in networks that tell positions in different ways."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, GPT2Config, MistralConfig, OPTConfig, PreTrainedConfig

from asrlife.methods.edit.prefix import ends
from asrlife.methods.edit.rows import Rows, rows
from asrlife.models.text import TextModel

TEXTS = [
    (0, "Long ago in the spring Leila Castell was born in", "Leila Castell", "Seville"),
    (0, "Leila Castell was born in", "Leila Castell", "Seville"),
    (1, "Ravi works in the town of", "Ravi", "Oslo and nowhere else"),
    (1, "Ravi is a", "Ravi", ""),
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
NETWORKS = {
    "gpt2": GPT2Config(n_positions=64, n_embd=32, n_layer=3, n_head=2),
    "windows": MistralConfig(**SMALL, sliding_window=5),
    "windows and none": Gemma2Config(**SMALL, head_dim=8, sliding_window=5),
    "by distance": BloomConfig(hidden_size=32, n_layer=3, n_head=4),
    "learnt positions": OPTConfig(hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=64),
}


def network(model: TextModel, config: PreTrainedConfig) -> TextModel:
    torch.manual_seed(0)
    config.vocab_size, config.pad_token_id = model.module.config.vocab_size, 0
    config.bos_token_id = config.eos_token_id = 0
    made = AutoModelForCausalLM.from_config(config).eval()
    for weight in made.parameters():  # as they are made, attention is too weak for a wrong mask to tell
        weight.data.mul_(4.0 if weight.dim() > 1 else 1.0)
    return replace(model, module=made)


@pytest.mark.parametrize("kind", ["embedded", *NETWORKS])
def test_ends_of_rows_say_what_whole_rows_say(model: TextModel, kind: str) -> None:
    one = model if kind == "embedded" else network(model, NETWORKS[kind])
    asked = rows(one, TEXTS)
    with torch.no_grad():
        found = ends(one.module, 1, asked)
        for at in (found, found.chosen(torch.tensor([True, False, True, True]))):
            every = at.mask[:, -at.ids.shape[1] :].bool()
            with at.resumed(one.module):
                said = at.logits(one.module, every)
            kept = [row for row in range(len(TEXTS)) if at is found or row != 1]
            whole = [one.module(asked.ids[row, : asked.lengths[row]][None]).logits[0, asked.places[row] :] for row in kept]
            torch.testing.assert_close(said, torch.cat(whole), atol=2e-4, rtol=2e-4)


def test_a_target_stands_where_it_should_be_said(model: TextModel) -> None:
    found = ends(model.module, 1, rows(model, TEXTS))
    for row, (_, _, subject, target) in enumerate(TEXTS):
        wanted = found.targets[row]
        assert str(model.speller.decode(wanted[wanted >= 0])).strip() == target
        first = int((wanted >= 0).nonzero()[0]) if target else int(found.last[row])
        assert found.ids[row, first] == model.ids(TEXTS[row][1])[-1]
        assert str(model.speller.decode(found.ids[row, 0])).strip() in subject


def test_nothing_before_any_subject(model: TextModel) -> None:
    ids = torch.tensor([model.ids("Ravi is a man")])
    length = torch.tensor([ids.shape[1]])
    found = ends(model.module, 2, Rows(ids, torch.ones_like(ids), length * 0, length - 1, length, length * 0))
    assert found.cache is None and found.chosen(torch.tensor([True])).cache is None
    with torch.no_grad(), found.resumed(model.module):
        said = found.logits(model.module, found.mask.bool())
    torch.testing.assert_close(said, model.module(ids).logits[0], atol=1e-4, rtol=1e-4)
