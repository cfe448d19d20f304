from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.load import load
from asrlife.models.whisper import WhisperRecogniser

DIMS = {"n_mels": 80, "n_audio_ctx": 100, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 2}
DIMS |= {"n_vocab": 51_865, "n_text_ctx": 48, "n_text_state": 32, "n_text_head": 2, "n_text_layer": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    network, path = Whisper(ModelDimensions(**DIMS)), tmp_path_factory.mktemp("openai") / "mine.pt"
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.2)
    torch.save({"dims": DIMS, "model_state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[WhisperRecogniser]:
    found = load(checkpoint)
    assert isinstance(found, WhisperRecogniser)
    yield found


def test_encoder_and_decoder_agree_with_the_package_of_openai(checkpoint: Path, model: WhisperRecogniser) -> None:
    import whisper

    theirs, ours = whisper.load_model(str(checkpoint), device="cpu"), model.module
    mel, tokens = torch.randn(2, 80, 200), torch.randint(0, 51_865, (2, 9))
    network: Any = ours
    with torch.inference_mode():
        torch.testing.assert_close(network.model.encoder(mel).last_hidden_state, theirs.embed_audio(mel), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(mel, decoder_input_ids=tokens).logits, theirs(mel, tokens), rtol=1e-5, atol=1e-5)


def test_mel_windows_agree_with_the_package_of_openai(model: WhisperRecogniser) -> None:
    import whisper

    samples = 0.1 * np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    theirs = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples, 32_000))
    torch.testing.assert_close(model.prepare([Waveform(samples, 16_000)]).inputs[0], theirs, rtol=0, atol=1e-4)


def test_prompt_and_spelling_are_those_of_the_package(model: WhisperRecogniser) -> None:
    from whisper.tokenizer import get_tokenizer

    tokenizer = get_tokenizer(True, num_languages=99, language="de", task="transcribe")
    assert model.control.prompt("de", False) == list(tokenizer.sot_sequence_including_notimestamps)
    assert model.spelling.ids(" grüß dich <|en|>")[:3] == tokenizer.encode(" grüß dich")[:3]
    assert model.spelling.text(model.spelling.ids(" grüß dich")) == " grüß dich"
    assert model.control.seconds(tokenizer.timestamp_begin + 5) == pytest.approx(0.1)


def test_it_transcribes(model: WhisperRecogniser) -> None:
    (found,) = model.transcribe([Waveform(np.zeros(16_000, np.float32), 16_000)])
    assert max(found.tokens, default=0) < model.control.end and np.isfinite(found.score)
    assert model.alignment_heads == ((1, 0), (1, 1))  # the upper half, as openai-whisper takes it for unknown models


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"dims": DIMS, "model_state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="evil.pt is damaged or holds more than weights"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_vocab": 1_000}, "has 1000 tokens, openai-whisper's vocabularies 51864 to 51866"),
        ({"n_audio_ctx": 99}, "no whole number of seconds"),
        ({"n_text_layer": 3}, "do not fit its dims"),
    ],
)
def test_dims_that_do_not_fit_are_said(change: dict[str, int], message: str, checkpoint: Path, tmp_path: Path) -> None:
    torch.save({**torch.load(checkpoint, weights_only=True), "dims": DIMS | change}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "odd.pt")


def test_other_and_truncated_files_are_said(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="openai-whisper did not write it"):
        load(tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:10_000])
    with pytest.raises(InputError, match="cut.pt is damaged"):
        load(tmp_path / "cut.pt")
