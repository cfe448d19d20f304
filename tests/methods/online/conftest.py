from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.models.load import load


def sound(seed: int, seconds: float = 0.6) -> Waveform:
    """Noise in bursts: enough for a network of random weights to say something about."""
    rng = np.random.default_rng(seed)
    count = round(16_000 * seconds)
    return Waveform((rng.standard_normal(count) * 0.1 * (1 + np.sin(np.arange(count) / 700))).astype(np.float32), 16_000)


@pytest.fixture(scope="session")
def stream() -> Callable[[int], list[Utterance]]:
    return lambda count: [Utterance(f"u{index}", sound(index, 0.5 + 0.1 * (index % 3))) for index in range(count)]


@pytest.fixture(scope="session")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small wav2vec2 of random weights whose padding is exact."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("ctc")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 32}
    front = {"conv_dim": (16,) * 4, "conv_kernel": (10, 8, 4, 4), "conv_stride": (5, 8, 4, 2), "feat_extract_norm": "layer"}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = Wav2Vec2ForCTC(Wav2Vec2Config(**size, **front, **positions, do_stable_layer_norm=True))
        module.lm_head.weight.data.mul_(20)
    module.save_pretrained(folder)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16_000, "do_normalize": True}))
    return load(folder)


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Vectors and traces that the published code left."""
    return shared / "tta-reference"


@pytest.fixture(scope="session")
def tiny(reference: Path) -> Any:
    return load(reference / "tiny-ctc")


@pytest.fixture(scope="session")
def recorded(reference: Path) -> list[Utterance]:
    audio = np.load(reference / "stream_audio.npz")
    entries = json.loads((reference / "stream.json").read_text())
    return [Utterance(entry["id"], Waveform(audio[entry["id"]], 16_000), entry["text"]) for entry in entries]
