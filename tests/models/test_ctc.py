from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.ctc import CtcRecogniser
from asrlife.models.load import load

FAMILY = [("wav2vec2", "layer"), ("wav2vec2", "group"), ("hubert", "layer"), ("wavlm", "layer"), ("wav2vec2-conformer", "layer")]
Folder = Callable[..., Path]


@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_every_family_gives_the_same_alone_and_in_a_padded_batch(kind: str, norm: str, ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder(kind, norm))
    with torch.inference_mode():
        together = model.emissions(model.prepare(noises))
        for row, waveform in enumerate(noises):
            alone = model.emissions(model.prepare([waveform]))
            steps = int(alone.lengths[0])
            assert steps == int(together.lengths[row]) == alone.logits.shape[1]
            torch.testing.assert_close(together.logits[row, :steps], alone.logits[0], rtol=0, atol=2e-5)
    assert [h.text for h in model.transcribe(noises)] == [model.transcribe([w])[0].text for w in noises]


@pytest.mark.parametrize(
    ("kind", "norm", "exact"), [("wav2vec2", "layer", True), ("wav2vec2", "group", False), ("wav2vec2-conformer", "layer", False)]
)
def test_padding_through_the_bare_network_is_exact_only_with_layer_norms_and_no_late_convolution(
    kind: str, norm: str, exact: bool, ctc_folder: Folder, noises: list[Waveform]
) -> None:
    model = load(ctc_folder(kind, norm))
    rows = [model.prepare([waveform]).inputs[0] for waveform in noises]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
    module: Any = model.module
    with torch.inference_mode():
        batch = module(padded, attention_mask=mask if norm == "layer" else None).logits
        alone = module(rows[1][None], attention_mask=torch.ones(1, len(rows[1])).long() if norm == "layer" else None).logits[0]
    error = float((batch[1, : len(alone)] - alone).abs().max())
    assert (error < 2e-5) == exact, error


def test_loading_gives_float32_in_evaluation_mode_with_gradients_left_on(ctc_folder: Folder) -> None:
    model = load(ctc_folder())
    assert not model.module.training and model.blank == 0 and model.rate == 16_000 and model.card == {}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.module.parameters())
    assert (
        model.capabilities == {"emissions", "loss", "timestamps", "alternatives"}
        and model.path(model.prepare([Waveform(np.zeros(9, np.float32), 16_000)])) is None
    )


def test_emissions_carry_gradient_to_the_selected_tensors(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder("wav2vec2", "group"))
    parameters = dict(model.module.named_parameters())
    tuned = [parameters[name] for name in model.select("norms+features")]
    found = torch.autograd.grad(model.emissions(model.prepare(noises)).logits.square().sum(), tuned)
    assert all(bool(gradient.isfinite().all()) for gradient in found) and all(bool(gradient.any()) for gradient in found[:4])


def test_inputs_are_normalised_as_the_feature_extractor_does_it(ctc_folder: Folder, noises: list[Waveform]) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    model = load(ctc_folder())
    theirs = Wav2Vec2FeatureExtractor.from_pretrained(ctc_folder())(
        [w.samples for w in noises], sampling_rate=16_000, padding=True, return_tensors="pt"
    )
    batch = model.prepare(noises)
    torch.testing.assert_close(batch.inputs, theirs.input_values, rtol=0, atol=1e-6)
    assert batch.mask is not None and torch.equal(batch.mask, theirs.attention_mask.long())


def test_silence_at_the_edges_is_added_before_normalising_and_taken_off_the_times(
    ctc_folder: Folder, noises: list[Waveform], tmp_path: Path
) -> None:
    folder = shutil.copytree(ctc_folder(), tmp_path / "model")
    (folder / "card.json").write_text(json.dumps({"edge_padding_s": 0.1}))
    plain, edged = load(ctc_folder()), load(folder)
    padded = [Waveform(np.pad(w.samples, 1600), 16_000) for w in noises]
    assert torch.equal(edged.prepare(noises).inputs, plain.prepare(padded).inputs)
    for one, other, waveform in zip(edged.transcribe(noises), plain.transcribe(padded), noises, strict=True):
        assert one.text == other.text
        for word, shifted in zip(one.words, other.words, strict=True):
            assert 0 <= word.start <= word.end <= waveform.duration
            assert word.start == pytest.approx(min(max(shifted.start - 0.1, 0), waveform.duration), abs=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_audio_shorter_than_a_frame_is_padded_with_silence(samples: int, ctc_folder: Folder) -> None:
    model = load(ctc_folder())
    emissions = model.emissions(model.prepare([Waveform(np.full(samples, 0.1, np.float32), 16_000)]))
    assert emissions.lengths.tolist() == [1] and bool(emissions.logits.isfinite().all())


def test_no_audio_and_bad_options_are_said(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder())
    assert model.transcribe([]) == []
    with pytest.raises(InputError, match="at least one waveform"):
        model.prepare([])
    with pytest.raises(InputError, match="beam must be 1"):
        model.transcribe(noises, beam=0)
    with pytest.raises(InputError, match="unknown option 'language'.*lm"):
        model.transcribe(noises, language="en")


def test_other_rates_are_resampled(ctc_folder: Folder) -> None:
    batch = load(ctc_folder()).prepare([Waveform(np.ones(4000, np.float32), 8_000)])
    assert batch.lengths.tolist() == [8_000]


def test_order_does_not_depend_on_batches(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder())
    alone = [h.text for h in model.transcribe(noises, batch_size=1)]
    assert [h.text for h in model.transcribe(noises, batch_size=2)] == alone
    assert [h.text for h in model.transcribe(noises[::-1], batch_size=2)] == alone[::-1]


def test_words_lie_in_the_audio_in_order_with_confidences(ctc_folder: Folder, noises: list[Waveform]) -> None:
    for hypotheses in (load(ctc_folder()).transcribe(noises), load(ctc_folder()).transcribe(noises, beam=8)):
        for hypothesis, waveform in zip(hypotheses, noises, strict=True):
            assert " ".join(word.text for word in hypothesis.words) == hypothesis.text == hypothesis.text.lower() != ""
            times = [moment for word in hypothesis.words for moment in (word.start, word.end)]
            assert times == sorted(times) and times[0] >= 0 and times[-1] <= waveform.duration
            assert all(0 < word.confidence <= 1 for word in hypothesis.words) and hypothesis.score < 0


def test_the_loss_is_that_of_transformers_per_label(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model, texts = load(ctc_folder()), ["Ab c", "it's", "zz"]
    batch, module = model.prepare(noises), load(ctc_folder()).module
    labels = torch.full((3, 4), -100)
    for row, text in enumerate(texts):
        ids = [2 if c == " " else 3 if c == "'" else ord(c.upper()) - 61 for c in text]
        labels[row, : len(ids)] = torch.tensor(ids)
    theirs = module(batch.inputs, attention_mask=batch.mask, labels=labels).loss
    torch.testing.assert_close(model.loss(batch, texts), theirs, rtol=1e-5, atol=1e-5)


def test_the_loss_names_letters_that_the_model_cannot_spell(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder())
    with pytest.raises(InputError, match="cannot spell '4' '!' of 'route 4!'|cannot spell '!' '4'"):
        model.loss(model.prepare(noises[:1]), ["route 4!"])


@pytest.mark.parametrize("beam", [1, 5])
def test_scores_that_overflowed_say_nothing(beam: int, ctc_folder: Folder, noises: list[Waveform]) -> None:
    model = load(ctc_folder())
    batch = model.prepare(noises)
    emissions = model.emissions(batch)
    sound = model.decode(batch, emissions, beam)
    emissions.logits.data[1] = torch.nan
    emissions.logits.data[2, 0, 3] = torch.inf
    found = model.decode(batch, emissions, beam)
    assert found[0] == sound[0]
    assert found[1].text == "" and found[1].words == ()
    assert found[2].text and all(np.isfinite(hypothesis.score) for hypothesis in found)


def test_reference_transcripts_are_reproduced(shared: Path) -> None:
    folder = shared / "tta-reference"
    model, audio = load(folder / "tiny-ctc"), np.load(folder / "stream_audio.npz")
    expected = [text for _, text in json.loads((folder / "tiny_none.json").read_text())["transcriptions"]]
    assert isinstance(model, CtcRecogniser) and not model.masked
    heard = model.transcribe([Waveform(audio[key], 16_000) for key in audio])
    assert [hypothesis.text for hypothesis in heard] == [text.lower() for text in expected]
