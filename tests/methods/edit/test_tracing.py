"""Causal tracing on the embedded language model: closed cases, and the batched against one by one."""

from __future__ import annotations

import pytest
import torch

from asrlife.errors import InputError
from asrlife.methods.edit.tracing import _corrupted, _probability, blur, modules_of, trace
from asrlife.models.text import TextModel, load_text

PROMPT, SUBJECT = "Leila Castell was born in", "Leila Castell"


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text("embedded:lm")


def test_without_noise_nothing_has_an_effect(model: TextModel) -> None:
    found = trace(model, PROMPT, SUBJECT, 0.0, samples=2)
    assert abs(found.total) < 1e-5 and float(found.effect.abs().max()) < 1e-5


def test_restoring_all_layers_above_the_noise_gives_the_clean_answer_back(model: TextModel) -> None:
    noise = blur(model, [SUBJECT])
    found = trace(model, PROMPT, SUBJECT, noise, samples=4)
    assert found.total > 0.05 and found.tokens[found.subject.stop - 1].strip().endswith("ll")
    last = found.effect[-1, -1]  # the last state of the last token is all that the head sees
    assert float(last) == pytest.approx(found.total, abs=1e-4)
    assert float(found.effect.max()) <= found.total + 0.05


@pytest.mark.parametrize("kind", ["states", "feed-forward", "attention"])
def test_many_places_at_once_are_as_one_by_one(model: TextModel, kind: str) -> None:
    noise = blur(model, [SUBJECT])
    found = trace(model, PROMPT, SUBJECT, noise, kind, samples=3)  # type: ignore[arg-type]
    ids = torch.tensor([model.ids(PROMPT)])
    corrupted = _corrupted(model, ids, found.subject, noise, 3, 0)
    kept: list[torch.Tensor] = []
    layer, place = 1, found.subject.stop - 1
    handle = modules_of(model, kind)[layer].register_forward_hook(  # type: ignore[arg-type]
        lambda _, __, made: kept.append((made if isinstance(made, torch.Tensor) else made[0])[0].clone())
    )
    with torch.no_grad():
        model.module(ids)
    handle.remove()
    answer = int(model.module(ids).logits[0, -1].argmax())
    put = {layer: (torch.full((3,), place), kept[0])}
    with torch.no_grad():
        alone = _probability(model, ids, corrupted[0], 0, put, answer, kind)  # type: ignore[arg-type]
    assert float(found.effect[place, layer]) == pytest.approx(alone - found.corrupted, abs=1e-5)


def test_the_network_is_as_it_was(model: TextModel) -> None:
    before = model.fingerprint()
    trace(model, PROMPT, SUBJECT, 0.1, window=2, samples=2)
    assert model.fingerprint() == before and not any(module._forward_hooks for module in model.module.modules())


def test_a_subject_that_does_not_stand_in_the_prompt_is_told(model: TextModel) -> None:
    with pytest.raises(InputError, match="does not stand in"):
        trace(model, PROMPT, "Ravi Holm", 0.1)
