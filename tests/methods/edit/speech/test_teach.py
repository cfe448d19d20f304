"""Words taught to recognisers of every kind: what an edit does, and that nothing but it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.delta import file
from asrlife.delta.delta import LowRank
from asrlife.delta.weights import adopt, applied
from asrlife.errors import InputError
from asrlife.methods.edit.algebra import emmet
from asrlife.methods.edit.speech.lessons import lessons
from asrlife.methods.edit.speech.listeners import listener
from asrlife.methods.edit.speech.places import place
from asrlife.methods.edit.speech.teach import Settings, bench, settings_of, teach, wanted
from asrlife.methods.edit.speech.wanted import Search, lacking
from asrlife.models.handle import Recogniser
from asrlife.models.load import load
from asrlife.recipe.teach_a_name.said import everyday, waves

Folder = Callable[..., Path]
QUICK = Search(steps=15, rate=2.0)  # random feed-forwards write little beside what passes them
SAID = Utterance("u", speak("bad cab", "en-us+f3"), "bad cab")
KINDS = {
    "wav2vec2": [Settings("head"), Settings("head", bias=True), Settings("mlp", search=QUICK), Settings("mlp", 0, search=QUICK)],
    "hubert": [Settings("head"), Settings("mlp", search=QUICK)],
    "wavlm": [Settings("head"), Settings("mlp", search=QUICK)],
    "wav2vec2-conformer": [Settings("head"), Settings("mlp", search=QUICK)],
    "whisper": [Settings("mlp", search=QUICK), Settings("cross-attention", 0, search=QUICK)],
}
CASES = [(kind, settings) for kind, some in KINDS.items() for settings in some]


@pytest.fixture(scope="module")
def speech() -> list[Waveform]:
    return [speak(text, "en-us+m3") for text in ("turn on the light", "what time is it", "read the news to me")]


def model_of(kind: str, ctc_folder: Folder, whisper_folder: Path) -> Recogniser:
    return load(whisper_folder if kind == "whisper" else ctc_folder(kind))


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_every_kind_is_taught_by_a_low_rank_delta_that_comes_off_again(
    kind: str, settings: Settings, ctc_folder: Folder, whisper_folder: Path, speech: list[Waveform]
) -> None:
    model = model_of(kind, ctc_folder, whisper_folder)
    before = {name: own.clone() for name, own in model.module.state_dict().items()}
    flags = [own.requires_grad for own in model.module.parameters()]
    loss = float(model.loss(model.prepare([SAID.waveform()]), ["bad cab"]))
    delta = teach(model, [SAID], speech, settings=replace(settings, ridge=1e-3))
    assert delta.base == model.fingerprint() and 1 <= len(delta.tensors) <= 2
    assert all(isinstance(change, LowRank) for name, change in delta.tensors.items() if name.endswith("weight"))
    with applied(model.module, delta):
        assert float(model.loss(model.prepare([SAID.waveform()]), ["bad cab"])) < loss
        assert model.fingerprint() != delta.base
    assert all(torch.equal(own, before[name]) for name, own in model.module.state_dict().items())
    assert flags == [own.requires_grad for own in model.module.parameters()]
    assert all(own.grad is None for own in model.module.parameters())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "whisper"])
def test_the_feed_forward_of_a_block_is_found_in_every_kind(kind: str, ctc_folder: Folder) -> None:
    found = place(listener(load(ctc_folder(kind))), "mlp")
    assert (found.module.out_features, found.module.in_features) == (32, 48)


@pytest.fixture(scope="module")
def embedded() -> Recogniser:
    return load("embedded:ctc")


@pytest.fixture(scope="module")
def everyday_speech() -> list[Waveform]:
    return waves(everyday(20))


PHOEBE = [Utterance(voice, speak("call phoebe at home", voice), "call phoebe at home") for voice in ("en-us+f3", "en-us+m3")]


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_says_what_is_wanted_and_by_what_was_wanted(embedded: Recogniser, everyday_speech: list[Waveform], bias: bool) -> None:
    settings = Settings("head", ridge=0.0, bias=bias)
    at = bench(embedded, everyday_speech, settings)
    (lesson,) = lessons(embedded, PHOEBE[:1], "phoebe")
    keys, residuals = wanted(at, [lesson], settings)
    solved = emmet(residuals, keys, at.covariance)
    torch.testing.assert_close(solved.dense() @ keys, residuals, rtol=0, atol=1e-6)
    (steps,), batch = at.listener.courses(lesson), at.listener.heard(lesson)
    with torch.no_grad(), applied(embedded.module, teach(embedded, PHOEBE[:1], word="phoebe", settings=settings, at=at)):
        scores = at.listener.scores(batch, steps)
    assert not lacking(scores[steps.taught], steps.targets[steps.taught], settings.margin - 1e-3).any()


def test_a_ridge_gives_way(ctc_folder: Folder, speech: list[Waveform]) -> None:
    model = load(ctc_folder())
    norms = [teach(model, [SAID], speech, settings=Settings("head", ridge=ridge)).norm() for ridge in (0.01, 1.0, 100.0)]
    assert norms[0] > norms[1] > norms[2] > 0


def test_what_is_written_already_is_nothing_to_teach(everyday_speech: list[Waveform]) -> None:
    model, settings = load("embedded:ctc"), Settings("head", ridge=0.0)
    adopt(model.module, teach(model, PHOEBE[:1], everyday_speech, "phoebe", settings))
    with pytest.raises(InputError, match="nothing to teach: the model writes all of it already"):
        teach(model, PHOEBE[:1], everyday_speech, "phoebe", replace(settings, margin=0.0))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("wav2vec2", Settings("cross-attention"), "has no cross-attention"),
        ("wav2vec2", Settings("mlp", 7), "layer 7: the network has layers 0 to 1"),
        ("whisper", Settings("cross-attention", 7), "layer 7: the network has layers 0 to 1"),
        ("whisper", Settings("head"), "the output layer is the embedding too"),
    ],
)
def test_places_that_are_not_there_are_named(
    kind: str, settings: Settings, message: str, ctc_folder: Folder, whisper_folder: Path, speech: list[Waveform]
) -> None:
    with pytest.raises(InputError, match=message):
        teach(model_of(kind, ctc_folder, whisper_folder), [SAID], speech, settings=settings)


def test_without_speech_nothing_would_hold_the_rest(ctc_folder: Folder) -> None:
    with pytest.raises(InputError, match="give utterances of general speech"):
        teach(load(ctc_folder()), [SAID])


def test_more_steps_than_dimensions_need_a_ridge(ctc_folder: Folder, speech: list[Waveform]) -> None:
    many = [Utterance(f"{n}", speak("bad cab", f"en-us+{n}"), "bad cab") for n in ("f1", "f2", "f3", "f4", "m1", "m2", "m3", "m4")]
    with pytest.raises(InputError, match="cannot all be met exactly with keys of 32 dimensions: use a ridge above 0"):
        teach(load(ctc_folder()), many, speech, settings=Settings("head", ridge=0.0, margin=20.0))


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="teach: unknown setting 'rigde'; did you mean 'ridge'"):
        settings_of({"rigde": 1})
    with pytest.raises(InputError, match="teach: ridge: Input should be greater than or equal to 0"):
        Settings(ridge=-1.0)


def test_the_embedded_recogniser_learns_a_name_and_a_file_carries_it(
    embedded: Recogniser, everyday_speech: list[Waveform], tmp_path: Path
) -> None:
    sound = [one.waveform() for one in PHOEBE]
    assert not any("phoebe" in one.text.split() for one in embedded.transcribe(sound))
    file.save(teach(embedded, PHOEBE, everyday_speech, "phoebe", Settings("head", ridge=10.0)), tmp_path / "p.safetensors")
    taught = load("embedded:ctc", delta=tmp_path / "p.safetensors")
    assert all("phoebe" in one.text.split() for one in taught.transcribe(sound))


@pytest.mark.slow
def test_the_embedded_whisper_comes_to_say_a_name_behind_what_it_writes_itself() -> None:
    model, text = load("embedded:whisper"), "call phoebe at home"
    loss = float(model.loss(model.prepare([PHOEBE[0].waveform()]), [text]))
    delta = teach(model, PHOEBE[:1], waves(everyday(8)), word="phoebe")
    assert list(delta.tensors) == ["model.decoder.layers.2.fc2.weight"]
    with applied(model.module, delta):
        assert float(model.loss(model.prepare([PHOEBE[0].waveform()]), [text])) < loss - 0.1
