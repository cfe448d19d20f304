"""Forgetting controls against their formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.methods.tune import EWC, L2SP, MAS, LwF, Replay, Settings, tune
from asrlife.methods.tune.hold import Anchor, Seen, distillation, importance, likelihood, together
from asrlife.methods.tune.scope import moving, selection
from asrlife.methods.tune.task import Given, Item, task_of
from asrlife.models.handle import Taught

KINDS = ["ctc", "whisper", "lm"]


def seen(moved, taught=None, given=None):
    taught = taught or Taught(torch.zeros(()), 1, torch.zeros(1, 2))
    return Seen(given or Given(("",)), taught, moved, np.random.default_rng(0), 1.0)


def test_l2sp_by_hand() -> None:
    """alpha / 2 * (1 + 4 + 9) for W - W0 = (1, -2, 3) and alpha 0.5 is 3.5; its gradient is alpha (W - W0)."""
    moved = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    penalty = L2SP(0.5).prepare(None, []).penalty(seen({"w": moved}))  # type: ignore[arg-type]
    penalty.backward()
    assert float(penalty.detach()) == 3.5 and moved.grad is not None and moved.grad.tolist() == [0.5, -1.0, 1.5]


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_ewc_is_lambda_f_times_the_way(loaded, corpus, kind: str, rank: int | None) -> None:
    model, old = loaded(kind), corpus(3, seed=2)
    names, task = selection(model.module, "lora", rank=2)[:3], task_of(model)
    hold = EWC(old, strength=7.0).prepare(task, names)
    with moving(model.module, names, rank) as live, torch.no_grad():
        for leaf in live.leaves:
            leaf.add_(torch.randn_like(leaf), alpha=0.1)
        moved = {name: change.clone().requires_grad_(True) for name, change in live.moved().items()}
    with torch.enable_grad():
        hold.penalty(seen(moved)).backward()
    for name, change in moved.items():
        assert hold.importance is not None and float(hold.importance[name].sum()) > 0
        torch.testing.assert_close(change.grad, 7.0 * hold.importance[name] * change.detach(), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_is_the_mean_of_squared_gradients_of_one_at_a_time(loaded, corpus, kind: str) -> None:
    model, old = loaded(kind), corpus(3, seed=2)
    task, names = task_of(model), selection(model.module, "norms")
    fingerprint = model.fingerprint()
    hold = EWC(old, most=2).prepare(task, names)
    assert model.fingerprint() == fingerprint and hold.importance is not None
    expected = {name: torch.zeros_like(model.module.get_parameter(name)) for name in names}
    for utterance in old.utterances[:2]:
        given = task.given([task.item(utterance)])
        gradients = torch.autograd.grad(task.taught(given).loss, [model.module.get_parameter(name) for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            expected[name] += gradient.square() / 2
    for name in names:
        torch.testing.assert_close(hold.importance[name], expected[name], rtol=1e-4, atol=1e-9)


class Squares(nn.Module):
    """f(x) = w * x with two weights and inputs (1, 2): ||f||^2 = w1^2 + 4 w2^2, whose gradient is (2 w1, 8 w2)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -0.5]))


class Toy:
    """A task over `Squares`; each item scales the input by its size."""

    unit, metrics = "toys", ("loss",)

    def __init__(self) -> None:
        self.model = type("Handle", (), {"module": Squares()})()

    def item(self, utterance):
        return Item(utterance, "x", float(utterance.text))

    def identity(self, utterance):
        return utterance.id

    def given(self, items, change=None, rng=None):
        return Given(tuple(str(item.size) for item in items))

    def taught(self, given, hide=False):
        logits = self.model.module.w * torch.tensor([1.0, 2.0]) * float(given.texts[0])
        return Taught(logits.sum(), 1, logits[None])


def toys(corpus, *scales: float) -> Corpus:
    base = corpus(len(scales)).utterances
    return Corpus(tuple(replace(one, text=str(scale)) for one, scale in zip(base, scales, strict=True)))


def test_mas_by_hand(corpus) -> None:
    """Scales 1 and 2 give |gradients| (6, 4) and (24, 16), mean (15, 10); strength 0.5 at (1, -2) gives 0.5 * (15 + 40) = 27.5."""
    hold = MAS(toys(corpus, 1.0, 2.0), strength=0.5).prepare(Toy(), ["w"])  # type: ignore[arg-type]
    assert hold.importance is not None and hold.importance["w"].tolist() == [15.0, 10.0]
    assert float(hold.penalty(seen({"w": torch.tensor([1.0, -2.0])}))) == 27.5


def test_ewc_by_hand_and_online(corpus, tmp_path) -> None:
    """d(-loss)/dw = -scale (1, 2); squares (1, 4) and (4, 16), mean (2.5, 10); with gamma 0.5 and an earlier (2, 2): (3.5, 11)."""
    old = toys(corpus, 1.0, 2.0)
    found, problems = importance(Toy(), ["w"], (old, 10), likelihood, torch.square, lambda: None)  # type: ignore[arg-type]
    assert found["w"].tolist() == [2.5, 10.0] and problems == ()
    earlier, path = {"w": torch.tensor([2.0, 2.0])}, tmp_path / "f.safetensors"
    online = EWC(old, 2.0, gamma=0.5, earlier=earlier, save=path).prepare(Toy(), ["w"])  # type: ignore[arg-type]
    assert online.importance is not None and online.importance["w"].tolist() == [3.5, 11.0]
    assert float(online.penalty(seen({"w": torch.tensor([1.0, 2.0])}))) == 3.5 + 44.0
    from safetensors.torch import load_file

    assert load_file(path)["w"].tolist() == [3.5, 11.0]
    with pytest.raises(InputError, match=r"earlier importance of 'w' has shape \(3,\), the model \(2,\)"):
        together({"w": torch.zeros(3)}, found, 1.0)


def test_what_no_importance_was_measured_of_is_free() -> None:
    penalty = Anchor(1.0, {"a": torch.ones(2)}).penalty(seen({"a": torch.ones(2), "b": 100 * torch.ones(2)}))
    assert float(penalty) == 2.0


def test_lwf_by_hand() -> None:
    """Logits 2 ln 3 and 0 at T 2 are 3/4 and 1/4 against 1/2 and 1/2: 4 * (3/4 ln 3/2 + 1/4 ln 1/2)."""
    target, logits = torch.tensor([[2 * math.log(3.0), 0.0]] * 3), torch.zeros(3, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(distillation(target, logits, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation(target, target + 1.0, 2.0)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_lwf_hears_the_base_while_weights_move(loaded, corpus, kind: str, rank: int | None) -> None:
    model, new = loaded(kind), corpus(2)
    task, names = task_of(model), selection(model.module, "lora", rank=2)
    given = task.given([task.item(utterance) for utterance in new])
    with torch.no_grad():
        target = task.taught(given).logits
    hold = LwF(0.5, 3.0).prepare(task, names)
    with moving(model.module, names, rank) as live:
        with torch.no_grad():
            for leaf in live.leaves:
                leaf.add_(torch.randn_like(leaf), alpha=0.1)
        taught = task.taught(given)
        penalty = hold.penalty(seen({}, taught, given))
        assert float(penalty.detach()) > 1e-5
        torch.testing.assert_close(penalty, 0.5 * distillation(target, taught.logits, 3.0), rtol=1e-4, atol=1e-7)
        live.zero()
        penalty.backward()
        assert any(leaf.grad is not None and bool(leaf.grad.any()) for leaf in live.leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_replay_is_its_share_of_the_loss_of_old_utterances(loaded, corpus, kind: str) -> None:
    model, old = loaded(kind), corpus(1, seed=3)
    task, names = task_of(model), selection(model.module, "norms")
    hold = Replay(old, 0.25).prepare(task, names)
    expected = task.taught(task.given([task.item(old.utterances[0])])).loss
    assert hold.share == 0.25
    torch.testing.assert_close(hold.penalty(seen({})), 0.25 * expected)


def test_replay_draws_as_much_as_its_share_of_a_batch(loaded, corpus) -> None:
    task = task_of(loaded("ctc"))
    hold = Replay(corpus(20, seed=3), 0.5).prepare(task, ())
    draws = [list(hold._drawn(np.random.default_rng(seed), 3.0)) for seed in range(30)]
    assert all(len(draw) * max(item.size for item in draw) <= 3.0 and len(draw) > 2 for draw in draws)
    assert len({item.utterance.id for draw in draws for item in draw}) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_all_controls_together_hold_the_weights_back(loaded, corpus, kind: str) -> None:
    model, train, old = loaded(kind), corpus(4), corpus(4, seed=2)
    settings = Settings(steps=5, rate=3e-3, batch_seconds=2.0, batch_tokens=64, mask_span=4, dropout=False, mask_time=0.0)
    free = tune(model, train, settings=settings)
    for keep in ([L2SP(100.0)], [EWC(old, 1e5)], [MAS(old, 10.0)], [LwF(100.0)]):
        assert tune(model, train, settings=settings, keep=keep).delta.norm() < free.delta.norm()
    both = tune(model, train, settings=replace(settings, scope="lora", rank=2), keep=[L2SP(), EWC(old), MAS(old), LwF(), Replay(old)])
    assert both.delta.norm() > 0 and [each["name"] for each in both.delta.note["keep"]] == ["l2sp", "ewc", "mas", "lwf", "replay"]


def test_old_speech_without_text_is_taught_in_the_models_own_words(loaded, corpus) -> None:
    model, old = loaded("ctc"), corpus(2, seed=2)
    task, names = task_of(model), selection(model.module, "norms")
    heard = [model.transcribe([utterance.waveform()])[0].text for utterance in old]
    assert all(heard)
    mute = replace(old, utterances=tuple(replace(utterance, text=None) for utterance in old))
    said = replace(old, utterances=tuple(replace(u, text=text) for u, text in zip(old, heard, strict=True)))
    one, two = (EWC(each).prepare(task, names).importance for each in (mute, said))
    assert one is not None and two is not None and all(torch.equal(one[name], two[name]) for name in names)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda old: L2SP(-1.0), "l2sp: strength: .*greater than or equal to 0"),
        (lambda old: LwF(temperature=0.0), "lwf: temperature: .*greater than 0"),
        (lambda old: EWC(old, gamma=2.0), "ewc: gamma: .*less than or equal to 1"),
        (lambda old: MAS(old, most=0), "mas: most: "),
        (lambda old: Replay(old, 1.0), "replay: share: 1 leaves nothing of a batch for what is new"),
    ],
)
def test_a_setting_beyond_its_limits_is_said(corpus, make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(corpus(1))


def test_replays_must_leave_room_and_not_hold_what_is_judged(loaded, corpus) -> None:
    model, settings = loaded("ctc"), Settings(steps=1)
    with pytest.raises(InputError, match="shares add up to 1 or more"):
        tune(model, corpus(2), settings=settings, keep=[Replay(corpus(2, seed=s), 0.5) for s in (1, 2)])
    with pytest.raises(InputError, match=r"dev \(in memory\) and replay \(in memory\) share 2 recordings"):
        tune(model, corpus(2), corpus(2, seed=1), settings, keep=[Replay(corpus(2, seed=1), 0.5)])
    with pytest.raises(InputError, match="what is to be kept: no utterance of the corpus can be used: .*has no text|it is empty"):
        tune(model, corpus(2), settings=settings, keep=[EWC(Corpus(()))])
