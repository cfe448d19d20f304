"""Causal tracing of Whisper: closed cases on the embedded recogniser, and against whole forwards with plain hooks on a random one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.methods.edit.audio_tracing import PARTS, AudioTrace, Part, _case, trace_word
from asrlife.methods.edit.heard import find
from asrlife.models.load import load
from asrlife.models.whisper import WhisperRecogniser


def whisper(name: Any) -> WhisperRecogniser:
    found = load(name)
    assert isinstance(found, WhisperRecogniser)
    return found


@pytest.fixture(scope="module")
def model() -> WhisperRecogniser:
    return whisper("embedded:whisper")


@pytest.fixture(scope="module")
def spoken() -> Waveform:
    """What the embedded recogniser hears as "turn on the check light"."""
    return speak("turn on the kitchen light", "en-us+m3")


@pytest.fixture(scope="module")
def traced(model: WhisperRecogniser, spoken: Waveform) -> AudioTrace:
    return trace_word(model, spoken, "Turn,", samples=2, seconds=0.5)


@pytest.fixture(scope="module")
def random(whisper_folder: Path) -> WhisperRecogniser:
    return whisper(whisper_folder)


@pytest.fixture(scope="module")
def noise() -> Waveform:
    return Waveform(0.3 * np.random.default_rng(5).standard_normal(11_200).astype(np.float32), 16_000)


def test_the_word_is_where_its_sound_is(traced: AudioTrace) -> None:
    names = [window.name for window in traced.windows]
    assert names[:3] == ["before", "word", "after"] and traced.heard.word == "turn" and traced.total > 0.5
    encoder = traced.effects["encoder"]
    assert encoder.shape == (len(traced.windows), 6)
    assert float(encoder[1].min()) > 0.8 * traced.total  # the word's frames in any layer
    assert float(encoder[[0, 2]].max()) < 0.5 * traced.total


def test_the_last_state_of_the_decoder_brings_the_clean_word_back(traced: AudioTrace) -> None:
    assert all(traced.effects[part].shape == (len(traced.tokens), 3) for part in PARTS if part != "encoder")
    assert float(traced.effects["decoder"][-1, -1]) == pytest.approx(traced.total, abs=1e-4)
    assert float(traced.effects["decoder"][:-1, -1].abs().max()) < 1e-4  # nothing reads the last states of earlier tokens


def test_all_states_of_any_encoder_layer_bring_the_clean_word_back(model: WhisperRecogniser, spoken: Waveform) -> None:
    found = find(model, spoken, "light")
    case = _case(model, spoken, found, found.span, None, 2, 0)
    assert [float(case.put_back(layer, [slice(None)])) for layer in range(6)] == pytest.approx([case.clean - case.corrupted] * 6, abs=1e-4)


def test_without_noise_nothing_has_an_effect(random: WhisperRecogniser, noise: Waveform) -> None:
    word = random.transcribe([noise])[0].words[0].text
    found = trace_word(random, noise, word, noise=0.0, samples=2, seconds=0.2)
    assert abs(found.total) < 1e-5 and all(float(effect.abs().max()) < 1e-5 for effect in found.effects.values())
    json.dumps(found.to_json(), allow_nan=False)


NAMES: dict[Part, str] = {
    "encoder": "model.encoder.layers.{}", "decoder": "model.decoder.layers.{}", "feed-forward": "model.decoder.layers.{}.fc2",
    "cross-attention": "model.decoder.layers.{}.encoder_attn",
}  # fmt: skip


@torch.no_grad()
def whole(model: WhisperRecogniser, mel: Tensor, ids: list[int], name: str, places: Any, clean: Tensor | None) -> tuple[Tensor, Tensor]:
    """Text probabilities behind `ids` and what a module puts out, from one forward of the network that puts `clean` back at `places`."""
    seen: list[Tensor] = []

    def hook(_: Any, __: Any, made: Any) -> Any:
        states = (made if isinstance(made, Tensor) else made[0]).clone()
        if clean is not None:
            states[0, places] = clean[0, places]
        seen.append(states)
        return states if isinstance(made, Tensor) else (states, *made[1:])

    network: Any = model.module
    handle = network.get_submodule(name).register_forward_hook(hook)
    logits = network(input_features=mel, decoder_input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    handle.remove()
    return logits[: model.control.end + 1].softmax(-1), seen[0]


@pytest.mark.parametrize("part", PARTS)
def test_a_trace_is_what_whole_forwards_one_by_one_give(random: WhisperRecogniser, noise: Waveform, part: Part) -> None:
    span, level, samples = (0.2, 0.4), 2.0, 2
    word = random.transcribe([noise])[0].words[0].text
    found = trace_word(random, noise, word, parts=(part,), span=span, noise=level, samples=samples, seconds=0.2)
    batch = random.prepare([noise])
    ids = [*random.control.prompt(None, False), *found.heard.tokens[: len(found.tokens) - len(random.control.prompt(None, False))]]
    answer = found.heard.tokens[len(ids) - len(random.control.prompt(None, False))]
    drawn = level * torch.randn(samples, 80, 20, generator=torch.Generator().manual_seed(0))
    noisy = batch.inputs.repeat(samples, 1, 1)
    noisy[:, :, 20:40] += drawn
    layers = found.effects[part].shape[1]
    for layer in range(layers):
        name = NAMES[part].format(layer)
        chances, clean = whole(random, batch.inputs, ids, name, [], None)
        assert float(chances[answer]) == pytest.approx(found.clean, abs=1e-5)
        low = np.mean([float(whole(random, mel[None], ids, name, [], None)[0][answer]) for mel in noisy])
        assert low == pytest.approx(found.corrupted, abs=1e-5)
        frames = [slice(0, 10), slice(10, 20), slice(20, None), slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 35)]
        places = frames if part == "encoder" else [slice(place, place + 1) for place in range(len(ids))]
        for row, place in enumerate(places):
            high = np.mean([float(whole(random, mel[None], ids, name, place, clean)[0][answer]) for mel in noisy])
            assert float(found.effects[part][row, layer]) == pytest.approx(high - low, abs=2e-5)
    assert float(found.effects[part].abs().max()) > 1e-4


def test_the_network_is_as_it_was(random: WhisperRecogniser, noise: Waveform) -> None:
    before, modules = random.fingerprint(), [type(module) for module in random.module.modules()]
    trace_word(random, noise, random.transcribe([noise])[0].words[0].text, samples=1, seconds=0.5)
    assert random.fingerprint() == before and [type(module) for module in random.module.modules()] == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in random.module.modules())


def test_what_cannot_be_traced_is_told(model: WhisperRecogniser, spoken: Waveform) -> None:
    with pytest.raises(InputError, match="does not hear 'garage' in 'turn on"):
        trace_word(model, spoken, "garage")
    with pytest.raises(InputError, match="does not hear 'light' 2 times"):
        trace_word(model, spoken, "light", nth=2)
    with pytest.raises(InputError, match="does not hear"):
        trace_word(model, spoken, "...")
    with pytest.raises(InputError, match="the sound is silent"):
        trace_word(model, Waveform(np.zeros(16_000, np.float32), 16_000), "light")
    with pytest.raises(InputError, match="does not lie in"):
        trace_word(model, spoken, "light", span=(1.0, 9.0))
    with pytest.raises(InputError, match="at least 1"):
        trace_word(model, spoken, "light", samples=0)
