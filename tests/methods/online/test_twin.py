"""Recognition and adaptation side by side on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from asrlife.data.utterance import Utterance
from asrlife.delta.rows import Rows, source
from asrlife.methods.online import Method
from asrlife.methods.online.method import held
from asrlife.models.rowwise import weighted

FAMILIES = ["layer", "group", "hubert", "wavlm", "wav2vec2-conformer", "whisper"]


@pytest.mark.parametrize("shape", FAMILIES)
def test_what_is_done_to_a_twin_the_other_never_sees(
    shape: str, network: Callable[[str], Any], stream: Callable[[int], list[Utterance]]
) -> None:
    model, sounds = network(shape), [utterance.waveform() for utterance in stream(2)]
    twin, names = model.twin(), model.select("norms")
    assert twin.fingerprint() == model.fingerprint()
    assert [own.data_ptr() for own in twin.module.parameters()] == [own.data_ptr() for own in model.module.parameters()]
    expected, grads = model.transcribe(sounds), [own.requires_grad for own in model.module.parameters()]
    others = Rows.of(model.module, names, 3 * source(model.module, names)[None])
    assert twin.transcribe(sounds) == expected
    with held(twin), torch.no_grad(), weighted(twin.module, others.tensors):
        assert model.transcribe(sounds) == expected
        assert [own.requires_grad for own in model.module.parameters()] == grads
        assert twin.transcribe(sounds) != expected


@pytest.mark.parametrize("shape", FAMILIES)
def test_recognition_and_steps_at_the_same_time_are_what_they_are_alone(
    shape: str, network: Callable[[str], Any], quick: Callable[..., Method], stream: Callable[[int], list[Utterance]]
) -> None:
    model, utterances = network(shape), stream(3)
    method, sounds = quick("dsuta", model, scope="norms"), [utterance.waveform() for utterance in utterances]

    def adapted(recogniser: Any) -> tuple[list[str], str]:
        state, texts = method.start(recogniser), []
        for utterance in utterances:
            hypothesis, state, _ = method.step(recogniser, state, utterance)
            texts.append(hypothesis.text)
        return texts, state.digest()

    expected, alone = model.transcribe(sounds), adapted(model)
    with ThreadPoolExecutor(2) as threads:
        steps = [threads.submit(adapted, model.twin())]
        for _ in range(10):
            assert threads.submit(model.transcribe, sounds).result() == expected
        assert steps[0].result() == alone
