"""One forward gives the loss and the scores it was made of, and what cannot be taught is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import asrlife
from asrlife.audio.waveform import Waveform
from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.errors import InputError
from asrlife.models.text import load_text


def noise(seconds: float, seed: int = 0) -> Waveform:
    return Waveform(0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)), 16_000)


@pytest.mark.parametrize("kind", ["ctc", "conformer", "whisper"])
def test_the_scores_of_a_batch_are_those_of_its_rows(ctc_folder: Callable[..., Path], whisper_folder: Path, kind: str) -> None:
    folder = {"ctc": ctc_folder(), "conformer": ctc_folder("wav2vec2-conformer", "group"), "whisper": whisper_folder}[kind]
    model, waves, texts = asrlife.load(folder), [noise(0.4), noise(0.6, 1)], ["one two", "abc"]
    with torch.no_grad():
        both = model.taught(model.prepare(waves), texts)
        alone = [model.taught(model.prepare([wave]), [text]) for wave, text in zip(waves, texts, strict=True)]
    torch.testing.assert_close(both.logits, torch.cat([each.logits for each in alone]), rtol=1e-4, atol=1e-4)
    assert both.labels == sum(each.labels for each in alone) == {"whisper": 14}.get(kind, 10)
    weights = [each.labels if kind == "whisper" else 1 for each in alone]
    mean = sum(weight * float(each.loss) for weight, each in zip(weights, alone, strict=True)) / sum(weights)
    assert (
        float(both.loss)
        == pytest.approx(mean, rel=1e-4)
        == pytest.approx(float(model.loss(model.prepare(waves), texts).detach()), rel=1e-4)
    )


def test_a_language_models_loss_is_the_mean_surprise_of_its_tokens(lm_folder: Path) -> None:
    model, texts = load_text(lm_folder), ["the mango grows in oslo", "rome"]
    with torch.no_grad():
        found = model.taught(texts)
    surprise = torch.cat(model.surprise([("", text) for text in texts]))
    assert found.labels == len(surprise) == len(found.logits)
    assert float(found.loss) == pytest.approx(float(surprise.mean()), rel=1e-5)
    targets = torch.tensor([token for text in texts for token in [*model.ids(text), model.end][1:]])
    assert float(F.cross_entropy(found.logits, targets)) == pytest.approx(float(found.loss), rel=1e-6)
    with pytest.raises(InputError, match="give at least 2 and at most 129; split long ones"):
        model.taught(["abc " * 400])


def test_what_a_ctc_network_cannot_be_taught(ctc_folder: Callable[..., Path]) -> None:
    model = asrlife.load(ctc_folder())
    model.fits(noise(0.1), "aabb")
    frames = int(model.frames.count(torch.tensor(1600)))  # type: ignore[attr-defined]
    model.fits(noise(0.1), "ab" * (frames // 2))
    with pytest.raises(InputError, match=f"{frames + 2} letters in {frames} frames of sound"):
        model.fits(noise(0.1), "ab" * (frames // 2) + "a" * (frames % 2 + 2))
    with pytest.raises(InputError, match="letters in .* frames"):  # equal letters need a blank between them
        model.fits(noise(0.1), "a" * (frames // 2 + 2))
    with pytest.raises(InputError, match="cannot spell '9'"):
        model.fits(noise(1.0), "9")


def test_what_whisper_cannot_be_taught(whisper_folder: Path) -> None:
    model = asrlife.load(whisper_folder)
    model.fits(noise(2.0), "abc")
    with pytest.raises(InputError, match="2.10 s of audio exceed the model's window of 2.00 s"):
        model.fits(noise(2.1), "abc")
    with pytest.raises(InputError, match="a text has 101 tokens, the decoder takes"):
        model.fits(noise(1.0), "a" * 100)


def test_a_model_is_loaded_with_a_delta(ctc_folder: Callable[..., Path], whisper_folder: Path, tmp_path: Path) -> None:
    model = asrlife.load(ctc_folder())
    bias = model.module.lm_head.bias
    file.save(Delta(model.fingerprint(), {"lm_head.bias": Dense(torch.ones_like(bias))}), tmp_path / "d.safetensors")
    moved = asrlife.load(ctc_folder(), delta=tmp_path / "d.safetensors", scale=0.5)
    assert torch.equal(moved.module.lm_head.bias, bias + 0.5) and moved.fingerprint() != model.fingerprint()
    assert moved.module.lm_head.bias.requires_grad
    with pytest.raises(InputError, match=r"delta .*d\.safetensors on .*: the model has no parameter 'lm_head.bias'"):
        asrlife.load(whisper_folder, delta=tmp_path / "d.safetensors")
    with pytest.raises(InputError, match="cannot be scaled by nan"):
        asrlife.load(ctc_folder(), delta=tmp_path / "d.safetensors", scale=float("nan"))
