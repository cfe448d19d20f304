"""The embedded CTC recogniser: a small wav2vec2 whose first convolution starts as a bank of windowed sinusoids."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from asrlife.recipe.embedded.augment import normalise
from asrlife.recipe.embedded.training import RATE, Batch, mixed, pad

LETTERS = ["<pad>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"]
BANDS, PHASES, WINDOW, HOP = 80, 4, 400, 160


def configure(hidden: int = 192, layers: int = 6) -> Wav2Vec2Config:
    """20 ms frames from five convolutions (25 ms window, 10 ms hop first), then a pre-norm transformer."""
    return Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 48,
        intermediate_size=4 * hidden, conv_dim=(BANDS * PHASES, 192, 192, 192, 192), conv_kernel=(WINDOW, 5, 3, 3, 3),
        conv_stride=(HOP, 2, 1, 1, 1), num_feat_extract_layers=5, feat_extract_norm="layer", do_stable_layer_norm=True,
        conv_bias=True, num_conv_pos_embeddings=48, num_conv_pos_embedding_groups=8, layerdrop=0.0, apply_spec_augment=False,
        hidden_dropout=0.05, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
        ctc_loss_reduction="mean", ctc_zero_infinity=True, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def mel_centres(bands: int, low: float = 60.0, high: float = 7600.0) -> np.ndarray:
    """Band centres in Hz, equally spaced in mel."""
    mel = np.linspace(2595 * math.log10(1 + low / 700), 2595 * math.log10(1 + high / 700), bands)
    return 700 * (10 ** (mel / 2595) - 1)


def sinusoid_bank() -> torch.Tensor:
    """Hann-windowed sinusoids, shape (BANDS * PHASES, 1, WINDOW), louder towards high frequencies as speech is softer there.

    With GELU behind it, a sum over four phases is close to the magnitude of a band: a filterbank to start from.
    """
    time = (np.arange(WINDOW) - WINDOW / 2) / RATE
    rows = []
    for hertz in mel_centres(BANDS):
        width = min(WINDOW, int(RATE / max(40.0, 0.12 * hertz)) + 80)  # shorter windows for wider bands
        window = np.where(np.abs(time) < width / 2 / RATE, 0.5 + 0.5 * np.cos(2 * np.pi * time * RATE / width), 0.0)
        gain = (1 + (hertz / 500) ** 2) ** 0.5 / np.linalg.norm(window) * 0.35
        rows += [window * gain * np.cos(2 * np.pi * hertz * time + phase * np.pi / 2) for phase in range(PHASES)]
    return torch.tensor(np.stack(rows), dtype=torch.float32)[:, None]


def build(**size: int) -> Wav2Vec2ForCTC:
    """A new model with the sinusoid bank in its first convolution and band sums in its second."""
    model = Wav2Vec2ForCTC(configure(**size))
    first, second = (model.wav2vec2.feature_extractor.conv_layers[i].conv for i in (0, 1))
    with torch.no_grad():
        first.weight.copy_(sinusoid_bank())
        first.bias.copy_(torch.tensor([0.3, -0.3] * (len(first.bias) // 2)))  # a floor under the norm of silent frames
        second.weight.mul_(0.5)
        for band in range(BANDS):
            second.weight[band, band * PHASES : (band + 1) * PHASES, 1:4] += 0.15
    return model


def loss(model: Wav2Vec2ForCTC, batch: Batch) -> torch.Tensor:
    """CTC loss per label of an augmented batch, computed in bfloat16 where the processor has it."""
    audio, mask = pad([wave for wave, _ in batch])
    with mixed():
        return model(audio, attention_mask=mask, labels=labels_of(batch)).loss


def labels_of(batch: Batch) -> torch.Tensor:
    """Letters as classes, shape (batch, letters), -100 behind the shorter texts."""
    labels = torch.full((len(batch), max(len(t) for _, t in batch)), -100)
    for row, (_, text) in enumerate(batch):
        labels[row, : len(text)] = torch.tensor([LETTERS.index("|" if c == " " else c) for c in text])
    return labels


@torch.inference_mode()
def transcribe(model: Wav2Vec2ForCTC, waves: list[np.ndarray]) -> list[str]:
    """Greedy decoding of raw waves."""
    audio, mask = pad([normalise(np.pad(w, 1600)) for w in waves])
    best = model(audio, attention_mask=mask).logits.argmax(-1)
    frames = model._get_feat_extract_output_lengths(mask.sum(-1))
    return [spell(row[:n].tolist()) for row, n in zip(best, frames, strict=True)]


def spell(ids: list[int]) -> str:
    """Collapse repeats, drop blanks, join letters."""
    kept = [i for i, previous in zip(ids, [-1, *ids], strict=False) if i != previous and i > 1]
    return " ".join("".join(LETTERS[i] for i in kept).replace("|", " ").split())
