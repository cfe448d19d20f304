"""Tiny random networks of every shape the deltas must survive."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def wav2vec2(norm: str) -> nn.Module:
    """A wav2vec2 with weight-normed positions; `layer` and `group` differ in their feature extractors."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        vocab_size=12,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
    )
    return Wav2Vec2ForCTC(config).eval()  # type: ignore[no-any-return]


def whisper() -> nn.Module:
    """A Whisper, whose output projection is tied to its token embedding."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=20,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=10,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    return WhisperForConditionalGeneration(config).eval()  # type: ignore[no-any-return]


def output(module: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if "Whisper" in type(module).__name__:
        features = torch.randn(1, 8, 20, generator=generator)
        return module(input_features=features, decoder_input_ids=torch.tensor([[3, 5, 7]])).logits  # type: ignore[no-any-return]
    return module(torch.randn(2, 1200, generator=generator)).logits  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: wav2vec2("layer"),
    "group": lambda: wav2vec2("group"),
    "whisper": whisper,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param]()


@pytest.fixture
def logits() -> Callable[[nn.Module], Tensor]:
    """A model's output on one fixed input."""
    return output


@pytest.fixture
def ctc() -> nn.Module:
    return wav2vec2("layer")
