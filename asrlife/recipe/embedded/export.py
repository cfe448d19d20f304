"""Write a trained network as a checkpoint folder that transformers reads: float16 weights, tokenizer, processor, model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from asrlife.files import atomic
from asrlife.recipe.embedded.ctc import LETTERS
from asrlife.recipe.embedded.whisper import feature_extractor, tokenizer

EDGE_PADDING_S = 0.1  # silence that the CTC model saw at both ends of every utterance


def write_json(path: Path, value: Any) -> None:
    """One JSON document, written whole or not at all."""
    with atomic(path, "w") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def export_ctc(model: PreTrainedModel, folder: Path, card: dict[str, Any]) -> None:
    """Weights, vocabulary, feature extractor and card of a CTC recogniser."""
    from transformers import Wav2Vec2FeatureExtractor

    save_half(model, folder)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(LETTERS)})
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|", "bos_token": None, "eos_token": None}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": False, **names})
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    write_json(folder / "card.json", {"edge_padding_s": EDGE_PADDING_S, **card})


def export_whisper(model: PreTrainedModel, folder: Path, card: dict[str, Any]) -> None:
    """Weights, tokenizer, feature extractor, generation settings and card of a Whisper recogniser."""
    save_half(model, folder)
    tokenizer().save_pretrained(folder)
    feature_extractor().save_pretrained(folder)
    write_json(folder / "card.json", card)


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained` in float16 from a copy, so that training may go on in float32."""
    import copy

    copy.deepcopy(model).half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
