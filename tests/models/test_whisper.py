from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.load import load
from asrlife.models.whisper import WhisperRecogniser, joined
from asrlife.models.whisper_tokens import Control, without_loop, words
from asrlife.text.hypothesis import Hypothesis, Word

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
END, START, EN, DE, TRANSCRIBE, NO_TIMES = 28, 29, 30, 31, 33, 37
PROMPT = [START, EN, TRANSCRIBE, NO_TIMES]


@pytest.fixture(scope="module")
def model(whisper_folder: Path) -> WhisperRecogniser:
    found = load(whisper_folder)
    assert isinstance(found, WhisperRecogniser)
    return found


def network(model: WhisperRecogniser) -> Any:
    return model.module


def test_loading_gives_the_capabilities_and_the_window(model: WhisperRecogniser) -> None:
    assert model.capabilities == {"emissions", "path", "loss", "generate", "timestamps"}
    assert model.blank is None and model.window == 2.0 and not model.module.training


def test_the_path_is_the_greedy_one_of_transformers(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    batch, module = model.prepare(noises[:1]), network(model)
    cap = int(0.7 * 30) + 10
    barred = list(range(END + 1, module.config.vocab_size))
    theirs = module.generate(
        batch.inputs, decoder_input_ids=torch.tensor([PROMPT]), max_new_tokens=cap, do_sample=False, suppress_tokens=barred
    )[0].tolist()
    theirs = theirs[len(PROMPT) :] if theirs[: len(PROMPT)] == PROMPT else theirs
    kept = theirs[: theirs.index(END)] if END in theirs else without_loop(theirs)
    path = model.path(batch)[0].tolist()
    assert path[: path.index(END)] == kept and len(set(kept)) > 1


def test_batched_is_one_by_one(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    together, path = model.transcribe(noises), model.path(model.prepare(noises))
    for row, waveform in enumerate(noises):
        (alone,) = model.transcribe([waveform])
        assert (alone.text, alone.tokens) == (together[row].text, together[row].tokens)
        assert alone.score == pytest.approx(together[row].score, abs=1e-5)
        assert [(w.start, w.end) for w in alone.words] == [(w.start, w.end) for w in together[row].words]
        own = model.path(model.prepare([waveform]))[0]
        assert torch.equal(path[row, : len(own)], own) and bool((path[row, len(own) :] == END).all())
    assert len({hypothesis.text for hypothesis in together}) > 1


def test_emissions_are_one_teacher_forced_forward_over_text_classes(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    batch = model.prepare(noises)
    path = model.path(batch)
    emissions, module = model.emissions(batch, path), network(model)
    ids = torch.cat([torch.tensor([PROMPT] * 3), path[:, :-1]], 1)
    theirs = module(batch.inputs, decoder_input_ids=ids).logits[:, 3:, :END]
    torch.testing.assert_close(emissions.logits, theirs, rtol=0, atol=1e-5)
    assert emissions.lengths.tolist() == [row.index(END) for row in path.tolist()]
    for row, steps in enumerate(emissions.lengths.tolist()):  # greedy: no text class scores higher than the one taken
        assert torch.equal(emissions.logits[row, :steps].argmax(-1), path[row, :steps])


def test_emissions_carry_gradient_and_the_path_none(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    batch = model.prepare(noises)
    path = model.path(batch)
    assert not path.is_inference() and not path.requires_grad
    names = model.select("norms+features")
    parameters = dict(model.module.named_parameters())
    found = torch.autograd.grad(model.emissions(batch, path).logits.square().mean(), [parameters[name] for name in names])
    assert all(bool(gradient.isfinite().all()) for gradient in found) and any(bool(gradient.any()) for gradient in found)


def test_an_empty_path_gives_no_steps(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    emissions = model.emissions(model.prepare(noises[:1]), torch.tensor([[END]]))
    assert emissions.lengths.tolist() == [0]


def test_beams_find_likelier_paths_within_the_limit(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    for one, many, waveform in zip(model.transcribe(noises), model.transcribe(noises, beam=4), noises, strict=True):
        assert len(many.tokens) <= int(30 * waveform.duration) + 10
        assert many.score >= one.score - 1e-5 and all(0 < word.confidence <= 1 for word in many.words)


def test_words_lie_in_the_audio_in_order(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    for hypothesis, waveform in zip(model.transcribe(noises), noises, strict=True):
        assert " ".join(word.text for word in hypothesis.words) == hypothesis.text
        assert all(0 <= word.start <= word.end <= waveform.duration and 0 < word.confidence <= 1 for word in hypothesis.words)
        assert [word.start for word in hypothesis.words] == sorted(word.start for word in hypothesis.words)


def test_segments_come_from_time_tokens(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    for hypothesis, waveform in zip(model.transcribe(noises, timestamps="segments"), noises, strict=True):
        assert hypothesis.tokens[0] > NO_TIMES  # a window begins with a time
        times = [token for token in hypothesis.tokens if token > NO_TIMES]
        assert times == sorted(times)
        assert all(0 <= segment.start <= segment.end <= waveform.duration for segment in hypothesis.words)


def test_segments_by_hand(model: WhisperRecogniser) -> None:
    tick = NO_TIMES + 1
    row = [tick + 10, 27, 0, 1, tick + 30, tick + 40, 27, 2, 3]
    found = list(model._segments(row, torch.full((9,), -0.5), 16_000))
    assert [(segment.text, segment.start, segment.end) for segment in found] == [("ab", 0.2, 0.6), ("cd", 0.8, 1.0)]
    assert found[0].confidence == pytest.approx(np.exp(-0.5))


def test_long_audio_is_split_and_joined(model: WhisperRecogniser) -> None:
    rng = np.random.default_rng(5)
    samples = 0.1 * rng.standard_normal(5 * 16_000, np.float32)
    samples[24_000:30_000] = 0
    whole = Waveform(samples, 16_000)
    with pytest.raises(InputError, match="5.00 s of audio exceed the model's window of 2.00 s: call transcribe"):
        model.prepare([whole])
    (found,) = model.transcribe([whole], batch_size=2)
    assert found.text and found.words[-1].end > 2 and found.words[-1].end <= 5
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)


def test_edges_of_silence_shift_neither_words_nor_the_window_by_more_than_they_are(
    whisper_folder: Path, tmp_path: Path, noises: list[Waveform]
) -> None:
    folder = shutil.copytree(whisper_folder, tmp_path / "model")
    (folder / "card.json").write_text(json.dumps({"edge_padding_s": 0.1}))
    edged, plain = load(folder), load(whisper_folder)
    padded = [Waveform(np.pad(w.samples, (1600, 0)), 16_000) for w in noises]
    assert torch.equal(edged.prepare(noises).inputs, plain.prepare(padded).inputs)
    assert isinstance(edged, WhisperRecogniser) and edged.window == pytest.approx(1.9)
    for hypothesis, waveform in zip(edged.transcribe(noises), noises, strict=True):
        assert all(0 <= word.start <= word.end <= waveform.duration for word in hypothesis.words)


def test_the_loss_is_the_cross_entropy_per_label(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    batch, texts = model.prepare(noises[:2]), ["ab", "so it is"]
    total, count = torch.zeros(()), 0
    module = network(model)
    for row, text in enumerate(texts):
        labels = [LETTERS.index(c) for c in f" {text}"] + [END]
        logits = module(batch.inputs[row : row + 1], decoder_input_ids=torch.tensor([PROMPT + labels[:-1]])).logits[0, 3:]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
        count += len(labels)
    torch.testing.assert_close(model.loss(batch, texts), total / count, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="the decoder takes 60: split"):
        model.loss(batch, ["a" * 80, "b"])


def test_bad_options_are_said(model: WhisperRecogniser, noises: list[Waveform]) -> None:
    assert model.transcribe(noises[:1], language="de")[0].tokens is not None
    refused: list[tuple[dict[str, Any], str]] = [
        ({"language": "xx"}, "no language 'xx': use one of de, en"),
        ({"lm": "x.arpa"}, "n-gram works with CTC recognisers only"),
        ({"timestamps": "letters"}, "timestamps 'words' or 'segments', not 1 and 'letters'"),
        ({"languages": "en"}, "unknown option 'languages'.*lm, timestamps, language"),
    ]
    for options, message in refused:
        with pytest.raises(InputError, match=message):
            model.transcribe(noises[:1], **options)
    with pytest.raises(InputError, match="at least one waveform"):
        model.prepare([])


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 2, 2, 2], [1, 2]),
        ([5, 1, 2, 3, 1, 2, 3, 1, 2, 3], [5, 1, 2, 3]),
        ([1, 2, 3, 1, 2, 3], [1, 2, 3, 1, 2, 3]),
        ([], []),
    ],
)
def test_loops_are_kept_once(path: list[int], kept: list[int]) -> None:
    assert without_loop(path) == kept


def test_a_looping_decoder_is_stopped(whisper_folder: Path) -> None:
    model = load(whisper_folder)
    assert isinstance(model, WhisperRecogniser)
    with torch.no_grad():  # make the decoder say one letter for ever
        norm = network(model).model.decoder.layer_norm
        norm.weight.zero_()
        norm.bias.copy_(network(model).proj_out.weight[4])
    (found,) = model.transcribe([Waveform(np.zeros(16_000, np.float32), 16_000)])
    assert found.text == "e"


class Bytes:
    """Tokens that are bytes."""

    def text(self, ids: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def ids(self, text: str) -> list[int]:
        return list(text.encode())


def test_words_keep_characters_of_several_tokens_together() -> None:
    row = [*" né".encode(), 300, *" à la".encode()]
    assert list(words(row, 256, Bytes())) == [("né", [1, 2, 3]), ("à", [6, 7]), ("la", [9, 10])]


def test_pieces_are_joined_with_their_times() -> None:
    one = Hypothesis("a b", (1, 2), (Word("a", 0.0, 0.5, 1.0), Word("b", 0.5, 1.0, 1.0)), -1.0)
    two = Hypothesis("c", (3,), (Word("c", 0.25, 0.5, 0.5),), -2.0)
    found = joined([(0.0, one), (2.0, Hypothesis("", (), (), -4.0)), (3.0, two)])
    assert (found.text, found.tokens, found.words[2]) == ("a b c", (1, 2, 3), Word("c", 3.25, 3.5, 0.5))
    assert found.score == pytest.approx((3 * -1 + 1 * -4 + 2 * -2) / 6)


def test_english_only_checkpoints_have_a_short_prompt() -> None:
    control = Control.of({"decoder_start_token_id": 5, "eos_token_id": 4, "no_timestamps_token_id": 9})
    assert control.prompt(None, False) == [5, 9] and control.prompt("fr", True) == [5]
    with pytest.raises(InputError, match="does not set eos_token_id, no_timestamps_token_id"):
        Control.of({"decoder_start_token_id": 5})


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "neither tokenizer.json nor vocab.json"),
        ("preprocessor_config.json", "no preprocessor_config.json"),
        ("generation_config.json", "generation_config.json cannot be read"),
    ],
)
def test_missing_files_are_said(missing: str, message: str, whisper_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whisper_folder, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=message):
        load(folder)


def test_an_extractor_of_another_window_is_said(whisper_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whisper_folder, tmp_path / "model")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"chunk_length": 30, "n_samples": 480_000, "nb_max_frames": 3_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="window of 3000 frames is not the encoder's 200"):
        load(folder)
