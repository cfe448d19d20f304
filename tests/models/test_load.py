from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asrlife.errors import InputError
from asrlife.models.load import EMBEDDED, known_names, load


@pytest.fixture
def copy(ctc_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(ctc_folder(), tmp_path / "model")


def assert_refused(name: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_embedded_model_lists_those_there_are() -> None:
    assert_refused("embedded:ctx", "no embedded:ctx: use embedded:ctc, embedded:ctc-tts, embedded:whisper")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "nowhere", "model.safetensors"])
def test_a_path_that_leads_nowhere_says_what_to_give(name: str) -> None:
    assert_refused(name, f"no file or folder '{re.escape(name)}': give the folder of a checkpoint, or use embedded:ctc")


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused(
        "somebody/some-model",
        r"the hub did not give it \(\w+\): give the folder .*or download it first with `hf download somebody/some-model`",
    )
    assert_refused("some body/some?model", "neither a folder nor a hub id")


def test_a_folder_without_config_and_another_architecture_are_said(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    for architectures in (["Wav2Vec2Model"], None):
        (copy / "config.json").write_text(json.dumps({**settings, "architectures": architectures}))
        assert_refused(
            copy, f"is a {architectures[0] if architectures else 'unnamed'}, which is no recogniser asrlife knows: give a ...ForCTC"
        )
    (copy / "config.json").write_text("{")
    assert_refused(copy, "config.json cannot be read as JSON")
    (copy / "config.json").unlink()
    assert_refused(copy, "has no config.json")


def test_a_missing_or_foreign_vocabulary_is_said(copy: Path) -> None:
    vocabulary = json.loads((copy / "vocab.json").read_text())
    (copy / "vocab.json").write_text(json.dumps({**vocabulary, "é": 99}))
    assert_refused(copy, "'é' is class 99 of 30: use the files of one checkpoint")
    (copy / "vocab.json").write_text(json.dumps({"eng": vocabulary}))
    assert_refused(copy, "several vocabularies")
    (copy / "vocab.json").unlink()
    assert_refused(copy, "no vocab.json: add the vocabulary")


def test_weights_that_are_not_finite_are_said(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.bias"][3] = torch.nan
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert_refused(copy, "weight lm_head.bias holds NaN")


def test_missing_weights_are_never_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert_refused(copy, "lacks 1 weights such as lm_head.weight")


def test_weights_of_another_shape_are_said(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.bias"] = torch.zeros(31)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert_refused(copy, "does not load")


def test_truncated_weights_are_said(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_refused(copy, "model.safetensors is damaged or cut short.*copy or download it again")


def test_pickles_are_refused_unread(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert_refused(copy, "holds no .*safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert_refused(copy, "holds only pytorch_model.bin, a pickle, which can run code: convert it")


def test_another_file_than_a_checkpoint_is_said(copy: Path) -> None:
    assert_refused(copy / "model.safetensors", "is a file, but not an openai-whisper .pt")


def test_half_precision_weights_become_float32_and_special_classes_stay_silent(copy: Path) -> None:
    save_file({k: v.half() for k, v in load_file(copy / "model.safetensors").items()}, copy / "model.safetensors", {"format": "pt"})
    vocabulary = json.loads((copy / "vocab.json").read_text())
    (copy / "vocab.json").write_text(json.dumps({**vocabulary, "<s>": 30, "</s>": 31}))
    model = load(copy)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert load(copy).fingerprint() == model.fingerprint()


def test_loading_says_nothing(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(copy)
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""


def test_embedded_models_load_and_give_words_inside_the_audio() -> None:
    from asrlife.audio.speak import speak

    names = known_names()
    if set(names) != {f"embedded:{name}" for name in EMBEDDED}:
        pytest.skip("the embedded models are not built: make embedded")
    spoken = [speak("set a timer"), speak("bin blue at f two now")]
    for name, folder in names.items():
        assert (folder / "model.safetensors").stat().st_size <= 12e6
        model = load(name)
        assert model.card["name"] == name and 1e6 <= sum(p.numel() for p in model.module.parameters()) <= 6e6
        together = model.transcribe(spoken)
        assert [h.text for h in together] == [model.transcribe([w])[0].text for w in spoken]
        for hypothesis, waveform in zip(together, spoken, strict=True):
            assert all(0 <= word.start <= word.end <= waveform.duration for word in hypothesis.words)
