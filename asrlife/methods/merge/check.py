"""A merged model is loaded and run before anybody says that it was merged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrlife.errors import InputError

SECONDS = 1.0


def run_once(folder: Path) -> dict[str, Any]:
    """Load a checkpoint and let it work: a recogniser on a second of noise, a language model on three tokens; what it was and did.

    "ran" is false, with the reason, for architectures that are neither. Raises InputError where it does not load or gives no numbers.
    """
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    architecture = (config.get("architectures") or ["unnamed"])[0]
    if architecture.endswith("ForCTC") or architecture == "WhisperForConditionalGeneration":
        return {"architecture": architecture, "ran": True, "heard": _recogniser(folder)}
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return {"architecture": architecture, "ran": True, "logits": _language_model(folder)}
    reason = f"{architecture} is neither a recogniser nor a causal language model: load it where you use it before you trust it"
    logging.getLogger(__name__).warning("the merged model was not run: %s", reason)
    return {"architecture": architecture, "ran": False, "reason": reason}


def _recogniser(folder: Path) -> str:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.load import load

    model = load(folder)
    noise = 0.05 * np.random.default_rng(0).standard_normal(round(SECONDS * model.rate), np.float32)
    return model.transcribe([Waveform(noise, model.rate)])[0].text


def _language_model(folder: Path) -> list[int]:
    """The shape of its scores."""
    from transformers import AutoModelForCausalLM

    from asrlife.models.checkpoint import quiet

    with quiet():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True, output_loading_info=True)
        except Exception as error:  # whatever it is, the model does not load
            raise InputError(f"the merged model does not load: {' '.join(str(error).split())}") from error
    if report["missing_keys"]:
        raise InputError(f"the merged model lacks {len(report['missing_keys'])} weights such as {sorted(report['missing_keys'])[0]}")
    with torch.inference_mode():
        scores = model.eval()(torch.tensor([[0, 1, 2]])).logits
    if not bool(torch.isfinite(scores).all()):
        raise InputError("the merged model gives scores that are NaN or infinite: take smaller weights")
    return list(scores.shape)
