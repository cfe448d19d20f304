"""What every test may use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LETTERS = ["<pad>", "<unk>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that stands beside the project, where there is one."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside the project")
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is found that an earlier run has kept, and nothing is left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two threads are slower than one for models this small, and results must not depend on them."""
    import torch

    torch.set_num_threads(1)


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def ctc_config(kind: str, norm: str, **more: Any) -> Any:
    from transformers import HubertConfig, Wav2Vec2Config, Wav2Vec2ConformerConfig, WavLMConfig

    kinds = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "wavlm": WavLMConfig, "wav2vec2-conformer": Wav2Vec2ConformerConfig}
    return kinds[kind](
        vocab_size=len(LETTERS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        conv_dim=(16, 16, 16), conv_kernel=(10, 4, 3), conv_stride=(5, 4, 4), num_feat_extract_layers=3, feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", conv_bias=norm == "layer", num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        pad_token_id=0, bos_token_id=None, eos_token_id=None, layerdrop=0.0, ctc_loss_reduction="mean", **more,
    )  # fmt: skip


@pytest.fixture(scope="session")
def ctc_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of a random CTC checkpoint; equal arguments give the same folder."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str = "wav2vec2", norm: str = "layer") -> Path:
        if (kind, norm) not in made:
            made[kind, norm] = build_ctc(tmp_path_factory.mktemp(f"{kind}-{norm}"), kind, norm)
        return made[kind, norm]

    return make


def build_ctc(folder: Path, kind: str = "wav2vec2", norm: str = "layer", **more: Any) -> Path:
    import torch
    from transformers import AutoModelForCTC, Wav2Vec2FeatureExtractor

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        module = AutoModelForCTC.from_config(ctc_config(kind, norm, **more))
        module.lm_head.weight.mul_(30)  # so that greedy output is not all one letter
    module.save_pretrained(folder)
    write(folder / "vocab.json", {token: index for index, token in enumerate(LETTERS)})
    write(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": {"content": "|"}})
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


SPELLED = [*"abcdefghijklmnopqrstuvwxyz'", "Ġ"]
SPECIAL = "endoftext startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps".split()
END, START, EN, DE, TRANSCRIBE, NO_TIMES = (len(SPELLED) + place for place in (0, 1, 2, 3, 5, 9))
WINDOW_S = 2


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper with a window of 2 s and letters as tokens."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    folder, classes = tmp_path_factory.mktemp("whisper"), NO_TIMES + 1 + WINDOW_S * 50 + 1
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        module = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=classes, num_mel_bins=80, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=WINDOW_S * 50,
                max_target_positions=64, pad_token_id=END, bos_token_id=END, eos_token_id=END, decoder_start_token_id=START,
                suppress_tokens=None, begin_suppress_tokens=None,
            )
        )  # fmt: skip
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(40 if "encoder_attn" in name or "conv" in name else 8)  # so that the output depends on the audio
    module.save_pretrained(folder)
    write(
        folder / "generation_config.json",
        {
            "decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": END, "no_timestamps_token_id": NO_TIMES,
            "is_multilingual": True, "lang_to_id": {"<|en|>": EN, "<|de|>": DE}, "task_to_id": {"transcribe": TRANSCRIBE},
            "language": "en", "alignment_heads": [[1, 0], [1, 1]], "max_initial_timestamp_index": 50,
        },
    )  # fmt: skip
    special = [f"<|{name}|>" for name in SPECIAL]
    tokenizer = WhisperTokenizer({t: i for i, t in enumerate(SPELLED + special)}, [], extra_special_tokens=special[1:])
    tokenizer.add_tokens([f"<|{tick * 0.02:.2f}|>" for tick in range(classes - NO_TIMES - 1)], special_tokens=False)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random small Llama with a tokenizer that spells the closed world."""
    import torch

    from asrlife.data.world.facts import make
    from asrlife.data.world.forms import everything
    from asrlife.recipe.embedded import text

    folder = tmp_path_factory.mktemp("lm")
    speller = text.tokenizer([question.text for question in everything(make(0, 4, 3))], 500)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        text.build(len(speller), width=16, layers=2, inner=24, heads=2).save_pretrained(folder)
    speller.save_pretrained(folder)
    return folder
