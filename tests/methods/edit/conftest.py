from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from asrlife.models.text import TextModel, load_text


@pytest.fixture(scope="session")
def model() -> TextModel:
    return load_text("embedded:lm")


@pytest.fixture(scope="session")
def gpt2_of(model: TextModel) -> Callable[..., TextModel]:
    """Three blocks of random weights that are stored the other way round; `spread` is their standard deviation."""

    def make(spread: float = 0.02) -> TextModel:
        torch.manual_seed(0)
        sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 2, "initializer_range": spread}
        config = GPT2Config(vocab_size=model.module.config.vocab_size, bos_token_id=0, eos_token_id=0, **sizes)
        return replace(model, name="gpt2", module=GPT2LMHeadModel(config).eval())

    return make
