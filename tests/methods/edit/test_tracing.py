"""Causal tracing of the embedded language model and of a small GPT-2: closed cases, and against whole forwards with plain hooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.errors import InputError
from asrlife.methods.edit.tracing import KINDS, ROLES, Kind, Trace, blur, effects_at_subjects, fifth, layer_by_tracing, trace
from asrlife.models.text import TextModel, load_text

PROMPT, SUBJECT = "Leila Castell was born in", "Leila Castell"
LATER = "The favourite fruit of Freya Farrow is the"


@pytest.fixture(scope="module")
def gpt2(gpt2_of: Callable[..., TextModel]) -> TextModel:
    return gpt2_of(0.4)


LLAMA: dict[Kind, str] = {"states": "model.layers.{}", "feed-forward": "model.layers.{}.mlp", "attention": "model.layers.{}.self_attn"}
GPT2: dict[Kind, str] = {"states": "transformer.h.{}", "feed-forward": "transformer.h.{}.mlp", "attention": "transformer.h.{}.attn"}


def hooked(model: TextModel, name: str, change: Callable[[Tensor], None]) -> Any:
    """A hook on a module that changes a copy of what it puts out."""

    def hook(_: nn.Module, __: Any, made: Any) -> Any:
        states = (made if isinstance(made, Tensor) else made[0]).clone()
        change(states)
        return states if isinstance(made, Tensor) else (states, *made[1:])

    return model.module.get_submodule(name).register_forward_hook(hook)


@torch.no_grad()
def whole(model: TextModel, prompt: str, span: range, noise: float, samples: int, put: dict[str, int], keep: dict[str, Tensor]) -> Tensor:
    """Next-token probabilities (samples, classes) of whole forwards, one for each sample: modules `put` give what is kept of a place."""
    generator, found = torch.Generator().manual_seed(0), []
    embedding = model.module.get_input_embeddings()
    name = next(name for name, module in model.module.named_modules() if module is embedding)
    drawn = noise * torch.randn(samples, len(span), embedding.weight.shape[1], generator=generator)
    for each in drawn:
        hooks = [hooked(model, name, lambda states, each=each: states[0, span.start : span.stop].add_(each))]  # type: ignore[misc]
        for restored, place in put.items():
            hooks.append(hooked(model, restored, lambda states, n=restored, p=place: states[0, p].copy_(keep[n][p])))  # type: ignore[misc]
        found.append(model.module(torch.tensor([model.ids(prompt)])).logits[0, -1].softmax(-1))
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


@torch.no_grad()
def kept(model: TextModel, prompt: str, names: list[str]) -> dict[str, Tensor]:
    """What modules put out in a clean forward, (tokens, width)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, made: found.__setitem__(name, (made if isinstance(made, Tensor) else made[0])[0].clone())

    hooks = [model.module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    model.module(torch.tensor([model.ids(prompt)]))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("network", "window"), [("lm", 1), ("gpt2", 1), ("gpt2", 2)])
def test_a_trace_is_what_whole_forwards_one_by_one_give(request: Any, kind: Kind, network: str, window: int) -> None:
    model = request.getfixturevalue("model" if network == "lm" else network)
    prompt, subject, noise, samples = LATER, "Freya Farrow", 0.4, 2
    found = trace(model, prompt, subject, noise, kind, window, samples)
    layers = found.effect.shape[1]
    names = [(LLAMA if network == "lm" else GPT2)[kind].format(layer) for layer in range(layers)]
    clean = kept(model, prompt, names)
    answer = int(model.module(torch.tensor([model.ids(prompt)])).logits[0, -1].argmax())
    low = whole(model, prompt, found.subject, noise, samples, {}, clean)[:, answer].mean()
    assert found.corrupted == pytest.approx(float(low), abs=1e-6)
    for place in range(found.subject.start - 1, len(found.tokens)):
        for layer in range(layers):
            within = names[max(0, layer - window // 2) : layer + (window + 1) // 2]
            high = whole(model, prompt, found.subject, noise, samples, dict.fromkeys(within, place), clean)[:, answer].mean()
            assert float(found.effect[place, layer]) == pytest.approx(float(high - low), abs=2e-6), (place, layer)
    assert float(found.effect.abs().max()) > 1e-3


def test_without_noise_nothing_has_an_effect(model: TextModel) -> None:
    found = trace(model, PROMPT, SUBJECT, 0.0, samples=2)
    assert abs(found.total) < 1e-5 and float(found.effect.abs().max()) < 1e-5


def test_the_last_state_of_the_last_token_brings_the_clean_answer_back(model: TextModel) -> None:
    noise = blur(model, [SUBJECT])
    found = trace(model, PROMPT, SUBJECT, noise, samples=4)
    assert found.total > 0.05 and found.tokens[found.subject.stop - 1].strip().endswith("ll")
    assert float(found.effect[-1, -1]) == pytest.approx(found.total, abs=1e-4)  # it is all that the head sees
    assert float(found.effect.max()) <= found.total + 0.05


def test_any_window_that_holds_the_last_layer_brings_it_back_at_the_last_token(model: TextModel) -> None:
    found = trace(model, PROMPT, SUBJECT, blur(model, [SUBJECT]), window=99, samples=2)
    assert found.effect[-1].tolist() == pytest.approx([found.total] * found.effect.shape[1], abs=1e-4)


def test_where_the_first_layer_is_given_clean_states_its_attention_is_all_of_its_state(model: TextModel) -> None:
    noise = blur(model, [SUBJECT])
    states, attention = (trace(model, PROMPT, SUBJECT, noise, kind, samples=2) for kind in ("states", "attention"))
    later = slice(states.subject.stop, None)
    assert torch.allclose(states.effect[later, 0], attention.effect[later, 0], atol=1e-5)


def test_a_real_llama_goes_through(shared: Path) -> None:
    model = load_text(shared / "lm-stories260k")
    prompt, subject = "Once upon a time, there was a little girl named Lily", "a little girl named"
    states, feed, attention = (trace(model, prompt, subject, blur(model, [subject]), kind, fifth(5), samples=2) for kind in KINDS)
    assert float(states.effect[-1, -1]) == pytest.approx(states.total, abs=1e-4) and len(states.tokens) == len(model.ids(prompt))
    assert all(one.effect.shape == states.effect.shape and float(one.effect.abs().max()) > 1e-3 for one in (states, feed, attention))
    assert not float(feed.effect[: feed.subject.start].abs().max())


def test_the_network_is_as_it_was(model: TextModel) -> None:
    before = model.fingerprint()
    trace(model, PROMPT, SUBJECT, 0.1, window=2, samples=2)
    assert model.fingerprint() == before and not any(module._forward_hooks for module in model.module.modules())


def test_each_token_has_the_role_of_the_source() -> None:
    def roles(tokens: int, subject: range) -> list[str | None]:
        return list(Trace("states", ("x",) * tokens, subject, "y", 1.0, 0.0, torch.zeros(tokens, 1)).roles)

    first, middle, last, next_one, further, end = ROLES
    assert roles(8, range(1, 5)) == [None, first, middle, middle, last, next_one, further, end]
    assert roles(3, range(0, 1)) == [last, next_one, end]
    assert roles(4, range(2, 4)) == [None, None, first, last]
    assert roles(3, range(0, 2)) == [first, last, next_one]


def test_the_layer_is_the_one_with_the_largest_mean_effect_at_the_last_subject_token(model: TextModel) -> None:
    requests = [EditRequest(SUBJECT, PROMPT, "Oslo"), EditRequest("Freya Farrow", LATER, "plum")]
    effects = effects_at_subjects(model, requests, samples=3)
    noise = blur(model, [request.subject for request in requests])
    second = trace(model, LATER, "Freya Farrow", noise, "feed-forward", samples=3)
    assert torch.equal(effects[1], second.effect[second.subject.stop - 1])
    assert effects.shape == (2, model.module.config.num_hidden_layers)
    assert layer_by_tracing(model, requests, samples=3) == int(effects.mean(0).argmax())


def test_what_cannot_be_traced_is_told(model: TextModel) -> None:
    with pytest.raises(InputError, match="does not stand in"):
        trace(model, PROMPT, "Ravi Holm", 0.1)
    with pytest.raises(InputError, match="at least 1"):
        trace(model, PROMPT, SUBJECT, 0.1, samples=0)
    with pytest.raises(InputError, match="no requests"):
        layer_by_tracing(model, [])
