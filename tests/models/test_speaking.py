"""SpeechT5 and Bark on tiny random checkpoints: what comes is noise, but it comes by the real way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrlife.errors import InputError
from asrlife.models.speaking import ALL_ENGINES, speak

pytest.importorskip("sentencepiece", reason="no sentencepiece is here (pip install 'asrlife[speechbrain]')")
LETTERS = "the quick brown fox jumps over a lazy dog"


@pytest.fixture(scope="module")
def speech_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SpeechT5 of letters with a vocoder of its own and three speakers."""
    import sentencepiece
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig, SpeechT5Tokenizer

    folder = tmp_path_factory.mktemp("speecht5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LETTERS] * 3), model_prefix=str(folder / "spm_char"), model_type="char", vocab_size=31,
        bos_id=0, pad_id=1, eos_id=2, unk_id=3, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    SpeechT5Tokenizer(str(folder / "spm_char.model")).save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": 81, "hidden_size": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_layers": 1,
        "decoder_ffn_dim": 16, "decoder_attention_heads": 2, "num_mel_bins": 8, "speech_decoder_prenet_units": 8,
        "speech_decoder_postnet_units": 8, "speaker_embedding_dim": 12, "max_text_positions": 60,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = SpeechT5ForTextToSpeech(SpeechT5Config(**sizes))
        module.speech_decoder_postnet.prob_out.bias.data += 0.5  # so that it stops soon
        vocoder = SpeechT5HifiGan(
            SpeechT5HifiGanConfig(model_in_dim=8, upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
                                  resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], initializer_range=0.3)
        )  # fmt: skip
    module.save_pretrained(folder)
    vocoder.save_pretrained(folder / "vocoder")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_extractor_type": "SpeechT5FeatureExtractor"}))
    np.save(folder / "speakers.npy", np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def bark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bark of one layer each, with one voice."""
    from transformers import BarkConfig, BarkModel, BarkProcessor, EncodecConfig

    folder = tmp_path_factory.mktemp("bark")
    small = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "block_size": 64, "bias": False}
    config = BarkConfig(
        semantic_config={**small, "input_vocab_size": 140, "output_vocab_size": 30},
        coarse_acoustics_config={**small, "input_vocab_size": 60, "output_vocab_size": 60},
        fine_acoustics_config={**small, "input_vocab_size": 17, "output_vocab_size": 17, "n_codes_total": 4, "n_codes_given": 1},
        codec_config=EncodecConfig(codebook_size=16, codebook_dim=8, hidden_size=8, num_filters=2, upsampling_ratios=[4, 2],
                                   target_bandwidths=[120.0], num_lstm_layers=1, sampling_rate=24000, compress=2).to_dict(),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        module = BarkModel(config)
    module.save_pretrained(folder)
    generation = {
        "semantic_config": {"eos_token_id": 29, "max_new_tokens": 6, "text_encoding_offset": 30, "text_pad_token": 130,
                            "semantic_infer_token": 131, "semantic_vocab_size": 20, "max_input_semantic_length": 16,
                            "do_sample": True},
        "coarse_acoustics_config": {"coarse_semantic_pad_token": 56, "coarse_rate_hz": 75, "n_coarse_codebooks": 2,
                                    "coarse_infer_token": 57, "max_coarse_input_length": 16, "max_coarse_history": 16,
                                    "sliding_window_len": 8, "do_sample": True},
        "fine_acoustics_config": {"max_fine_history_length": 16, "max_fine_input_length": 32, "n_fine_codebooks": 4},
        "sample_rate": 24000, "codebook_size": 16, "model_type": "bark",
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS.split()]
    (folder / "vocab.txt").write_text("\n".join(words))
    preset = {"semantic_prompt": np.arange(6) % 20, "coarse_prompt": np.ones((2, 6), int), "fine_prompt": np.ones((4, 6), int)}
    (folder / "speaker_embeddings").mkdir()
    paths = {}
    for key, value in preset.items():
        paths[key] = f"speaker_embeddings/one_{key}.npy"
        np.save(folder / paths[key], value.astype(np.int64))
    BarkProcessor(BertTokenizerFast(str(folder / "vocab.txt"))).save_pretrained(folder)
    (folder / "speaker_embeddings_path.json").write_text(json.dumps({"repo_or_path": "elsewhere", "v2/one": paths}))
    return folder


@pytest.mark.parametrize("kind", ["speecht5", "bark"])
def test_a_network_speaks_the_same_for_the_same_seed(kind: str, request: pytest.FixtureRequest) -> None:
    voice = f"{kind}:{request.getfixturevalue('speech_t5' if kind == 'speecht5' else kind)}"
    before = torch.random.get_rng_state()
    first, again, other = (speak("the lazy dog", voice, seed=seed) for seed in (1, 1, 2))
    assert first.rate == 16_000 and len(first.samples)
    assert np.array_equal(first.samples, again.samples)
    assert first.samples.tobytes() != other.samples.tobytes()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bark_takes_its_own_voices_alone(bark: Path) -> None:
    assert speak("the lazy dog", f"bark:{bark}#v2/one").samples.any()
    with pytest.raises(InputError, match=r"no preset 'v2/two'; known: v2/one"):
        ALL_ENGINES["bark"].check(f"{bark}#v2/two")


def test_speakers_may_stand_in_a_file_of_their_own(speech_t5: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    vector = np.ones(12, np.float32)
    save_file({"x": vector}, tmp_path / "one.safetensors")
    np.save(tmp_path / "one.npy", vector)
    sounds = [speak("a dog", f"speecht5:{speech_t5}#{tmp_path / name}").samples.tobytes() for name in ("one.safetensors", "one.npy")]
    assert sounds[0] == sounds[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("wrong.npy", np.ones((2, 5), np.float32), r"holds \(2, 5\) numbers, not finite x-vectors \(n, 12\)"),
        ("nan.npy", np.full((1, 12), np.nan, np.float32), "not finite x-vectors"),
        ("pickle.npy", np.array([{"a": 1}], dtype=object), "no x-vectors can be read"),
        ("gone.npy", None, "no x-vectors can be read"),
    ],
)
def test_speakers_that_do_not_fit_are_refused(speech_t5: Path, tmp_path: Path, name: str, value: Any, message: str) -> None:
    if value is not None:
        np.save(tmp_path / name, value, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        ALL_ENGINES["speecht5"].check(f"{speech_t5}#{tmp_path / name}")


def test_a_text_longer_than_the_model_reads_is_refused(speech_t5: Path) -> None:
    with pytest.raises(InputError, match="the text has 79 letters, the model reads 60; cut it, as in --longest 10"):
        speak("the lazy dog " * 6, f"speecht5:{speech_t5}")


@pytest.mark.parametrize("kind", ["speecht5", "bark"])
def test_what_is_no_checkpoint_is_told(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \*.safetensors"):
        ALL_ENGINES[kind].check(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="a pickle, which can run code"):
        ALL_ENGINES[kind].check(str(tmp_path))
    with pytest.raises(InputError, match=f"{kind}: .*the hub did not give it"):
        ALL_ENGINES[kind].check("nobody/nothing")
    with pytest.raises(InputError, match=f"{kind}: there is no file or folder"):
        ALL_ENGINES[kind].check("no-such-folder")
