"""Export a trained model and score it through the handle that users load, on sets it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife.recipe.embedded import ctc, whisper
from asrlife.recipe.embedded.export import export_ctc, export_whisper
from asrlife.recipe.embedded.fitting import SHARES, load_weights
from asrlife.recipe.embedded.speech import HELD_OUT, RATE, Speech

if TYPE_CHECKING:
    from asrlife.recipe.embedded.build import Embedded

NAMES = {"tts": "synthetic, held-out sentences and voices", "grid": "real commands", "digits": "real digit strings"}
WARNING = "Small models for learning and testing, trained from scratch; real work names a real checkpoint."


def finish(name: str, settings: Embedded, speech: dict[str, Speech], out: Path) -> dict[str, Any]:
    """Write OUT/models/NAME with float16 weights, score what was written and put the scores on its card."""
    folder = out / "models" / name
    if name == "whisper":
        teacher = whisper.Teacher(whisper.build(**settings.size["whisper"]))
        load_weights(teacher, out / f"{name}.pt")
        export_whisper(teacher.model, folder, {})
    else:
        model = ctc.build(**settings.size["ctc"])
        load_weights(model, out / f"{name}.pt")
        export_ctc(model, folder, {})
    card = {**describe(name, settings, speech), "scores": score(folder, speech)}
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **card}, indent=2) + "\n")
    return card


def describe(name: str, settings: Embedded, speech: dict[str, Speech]) -> dict[str, Any]:
    """What the model is and what it heard."""
    heard = {kind: speech[f"{kind}_train"] for kind in ("tts", "grid", "digits") if kind in SHARES[name] and f"{kind}_train" in speech}
    data = {
        NAMES[kind].split(",")[0]: {"utterances": len(s), "hours": round(float(s.seconds.sum()) / 3600, 2)} for kind, s in heard.items()
    }
    return {
        "name": f"embedded:{name}",
        "architecture": "Whisper" if name == "whisper" else "wav2vec2 CTC",
        "training": {
            "data": data,
            "steps": settings.steps[name],
            "voices_held_out": HELD_OUT,
            "real_splits": "train only; dev watched; test never used",
        },
        "warning": WARNING,
    }


def score(folder: Path, speech: dict[str, Speech]) -> list[dict[str, Any]]:
    """WER and CER, as fractions, of greedy decoding without a language model on every test set."""
    import jiwer

    import asrlife

    model, rows = asrlife.load(str(folder)), []
    for kind, title in NAMES.items():
        if (test := speech.get(f"{kind}_test")) is None:
            continue
        waves = [Waveform(np.ascontiguousarray(test[i]), RATE) for i in range(len(test))]
        texts = [h.text for h in model.transcribe(waves)]
        wer, cer = (round(float(rate(test.texts, texts)), 4) for rate in (jiwer.wer, jiwer.cer))
        rows.append({"set": title, "utterances": len(test), "wer": wer, "cer": cer})
    return rows
