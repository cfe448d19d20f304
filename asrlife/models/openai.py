"""openai-whisper .pt checkpoints as transformers Whisper networks."""

from __future__ import annotations

import base64
import gzip
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrlife.errors import InputError
from asrlife.models.checkpoint import check_finite, quiet
from asrlife.models.whisper import WhisperRecogniser
from asrlife.models.whisper_times import aligning
from asrlife.models.whisper_tokens import Control

DIMENSIONS = {f"n_{part}_{size}" for part in ("audio", "text") for size in ("ctx", "state", "head", "layer")} | {"n_mels", "n_vocab"}
FRAMES_PER_S, LEAST_MULTILINGUAL = 50, 51_865
NAMES = (  # openai's name of a part, transformers' name of it; the longer ones first
    ("blocks", "layers"), ("mlp.0", "fc1"), ("mlp.2", "fc2"), ("mlp_ln", "final_layer_norm"),
    ("cross_attn_ln", "encoder_attn_layer_norm"), ("attn_ln", "self_attn_layer_norm"),
    ("cross_attn.", "encoder_attn."), (".attn.", ".self_attn."),
    (".query", ".q_proj"), (".key", ".k_proj"), (".value", ".v_proj"), (".out.", ".out_proj."),
    ("decoder.ln.", "decoder.layer_norm."), ("encoder.ln_post", "encoder.layer_norm"),
    ("token_embedding", "embed_tokens"), ("positional_embedding", "embed_positions.weight"),
)  # fmt: skip


def read_openai(path: Path, name: str) -> WhisperRecogniser:
    """A checkpoint with "dims" and "model_state_dict", read without running pickled code; float32, evaluation mode.

    Raises InputError for files that are damaged, hold anything but weights, or do not fit openai-whisper's vocabularies.
    """
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    dims, weights = _contents(path)
    tokenizer, control = _speech_tokens(int(dims["n_vocab"]), path)
    with quiet():
        module: Any = WhisperForConditionalGeneration(_config(dims, control))
    try:
        module.model.load_state_dict({renamed(key): value for key, value in weights.items()})
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: its weights do not fit its dims ({str(error).splitlines()[-1].strip()}): download it again") from error
    check_finite(module, path)
    extractor = WhisperFeatureExtractor(feature_size=dims["n_mels"], chunk_length=dims["n_audio_ctx"] // FRAMES_PER_S)
    return WhisperRecogniser(
        name, module.float().eval(), extractor.sampling_rate, extractor=extractor, control=control, spelling=tokenizer,
        alignment_heads=_heads(path.stem, module.config),
    )  # fmt: skip


def renamed(key: str) -> str:
    """Name of a weight under WhisperForConditionalGeneration.model."""
    for theirs, ours in NAMES:
        key = key.replace(theirs, ours)
    return key


def _contents(path: Path) -> tuple[Mapping[str, int], Mapping[str, Tensor]]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is damaged or holds more than weights ({str(error).splitlines()[0][:120]}): download it again") from error
    if not isinstance(found, dict) or {"dims", "model_state_dict"} - found.keys() or DIMENSIONS - dict(found["dims"]).keys():
        raise InputError(f"{path} has no dims and model_state_dict, so openai-whisper did not write it: give the folder of a checkpoint")
    if found["dims"]["n_audio_ctx"] % FRAMES_PER_S:
        raise InputError(f"{path}: a window of {found['dims']['n_audio_ctx']} frames is no whole number of seconds: use another checkpoint")
    return found["dims"], found["model_state_dict"]


def _config(dims: Mapping[str, int], control: Control) -> Any:
    from transformers import WhisperConfig

    return WhisperConfig(
        vocab_size=dims["n_vocab"], num_mel_bins=dims["n_mels"], d_model=dims["n_audio_state"],
        max_source_positions=dims["n_audio_ctx"], max_target_positions=dims["n_text_ctx"],
        encoder_layers=dims["n_audio_layer"], encoder_attention_heads=dims["n_audio_head"], encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_layers=dims["n_text_layer"], decoder_attention_heads=dims["n_text_head"], decoder_ffn_dim=4 * dims["n_text_state"],
        pad_token_id=control.end, bos_token_id=control.end, eos_token_id=control.end, decoder_start_token_id=control.start,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BytePairs:
    """Spelling by the vocabulary that ships in the openai-whisper package."""

    encoding: Any

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens spell."""
        return str(self.encoding.decode(list(ids)))

    def ids(self, text: str) -> list[int]:
        """Tokens of a text; what looks like a special token is spelled."""
        return list(self.encoding.encode(text, disallowed_special=()))


def _speech_tokens(classes: int, path: Path) -> tuple[BytePairs, Control]:
    from whisper.tokenizer import get_tokenizer

    multilingual = classes >= LEAST_MULTILINGUAL
    languages = classes - 51_765 - int(multilingual)
    if not 99 <= languages <= 100:
        raise InputError(f"{path} has {classes} tokens, openai-whisper's vocabularies 51864 to 51866: use a checkpoint of its format")
    tokenizer = get_tokenizer(multilingual, num_languages=languages)
    codes = dict(zip(tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True)) if multilingual else {}
    control = Control(
        tokenizer.sot, tokenizer.eot, tokenizer.no_timestamps, codes, tokenizer.transcribe if multilingual else None,
        suppressed=tokenizer.non_speech_tokens, begin_suppressed=(*tokenizer.encode(" "), tokenizer.eot), latest_start=50,
    )  # fmt: skip
    return BytePairs(tokenizer.encoding), control


def _heads(stem: str, config: Any) -> tuple[tuple[int, int], ...]:
    from whisper import _ALIGNMENT_HEADS

    if stem not in _ALIGNMENT_HEADS:
        return aligning(None, config)
    marked = np.frombuffer(gzip.decompress(base64.b85decode(_ALIGNMENT_HEADS[stem])), dtype=bool)
    if marked.size != config.decoder_layers * config.decoder_attention_heads:  # a file of another model under this name
        return aligning(None, config)
    return tuple((int(layer), int(head)) for layer, head in np.argwhere(marked.reshape(config.decoder_layers, -1)))
