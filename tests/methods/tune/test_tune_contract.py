"""Every kind of model in every scope: the model stays, the delta holds what was learnt, and something was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asrlife.delta import file
from asrlife.delta.delta import Dense, LowRank
from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.methods.tune import Augment, LwF, Quiet, Settings, tune
from asrlife.methods.tune.task import task_of

KINDS = ["ctc", "whisper", "lm"]
SCOPES = ["full", "lora", "norms", "regex:layers.1", "lora+decoder"]
QUICK = Settings(steps=6, rate=3e-3, batch_seconds=2.0, batch_tokens=64, every=3, warmup=0.2, mask_span=4, rank=4)


def known(module):
    return {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in module.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_stays_and_the_delta_holds_what_was_learnt(loaded, corpus, kind: str, scope: str) -> None:
    model, train, dev = loaded(kind), corpus(6), corpus(3, seed=1)
    before, flags = known(model.module), [(p.requires_grad, p.grad) for p in model.module.parameters()]
    config, fingerprint = model.module.config.to_dict(), model.fingerprint()
    scope = scope.replace("decoder", "encoder") if kind == "ctc" else scope
    found = tune(model, train, dev, replace(QUICK, scope=scope, rate=3e-2 if scope == "norms" else QUICK.rate))

    assert model.fingerprint() == fingerprint == found.delta.base and not model.module.training
    after = known(model.module)
    assert all(after[name][0] == place and torch.equal(after[name][1], values) for name, (place, values) in before.items())
    assert [(p.requires_grad, p.grad) for p in model.module.parameters()] == flags and model.module.config.to_dict() == config
    assert not any("parametriz" in type(part).__name__.lower() and "lora" in str(part) for part in model.module.modules())

    assert all(isinstance(change, LowRank if "lora" in scope else Dense) for change in found.delta.tensors.values())
    task = task_of(model)
    items = [task.item(utterance) for utterance in dev]
    base, best = found.history[0], next(line for line in found.history if line["step"] == found.best_step)
    with applied(model.module, found.delta):
        assert task.score(items)["loss"] == pytest.approx(best["dev_loss"], rel=1e-5)
    assert task.score(items)["loss"] == pytest.approx(base["dev_loss"], rel=1e-6)


@pytest.mark.parametrize("scope", ["full", "lora", "norms"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_on_what_is_learnt(loaded, corpus, kind: str, scope: str) -> None:
    model, train = loaded(kind), corpus(4)
    rate = {"norms": 0.3 if kind == "lm" else 0.03, "lora": 0.02}.get(scope, 0.003)
    settings = replace(QUICK, scope=scope, steps=12, dropout=False, mask_time=0.0, rate=rate)
    found = tune(model, train, settings=settings)
    task = task_of(model)
    given = task.given([task.item(utterance) for utterance in train])
    with torch.no_grad():
        before = float(task.taught(given).loss)
        with applied(model.module, found.delta):
            after = float(task.taught(given).loss)
    assert after < 0.985 * before
    assert found.best_step == 12 and "dev_loss" not in found.history[-1]


def test_the_same_seed_gives_the_same_delta_and_another_another(loaded, corpus) -> None:
    model, train = loaded("ctc"), corpus(6)
    settings = replace(QUICK, speed=0.1, noise=10.0, steps=3)
    torch.manual_seed(5)
    one = tune(model, train, settings=settings).delta
    torch.manual_seed(6)
    two, three = (tune(model, train, settings=replace(settings, seed=seed)).delta for seed in (0, 1))
    assert all(torch.equal(one.tensors[name].dense(), two.tensors[name].dense()) for name in one.tensors)
    assert (one - three).norm() > 0.01 * one.norm()


def test_the_callers_random_numbers_go_on_as_if_nothing_had_happened(loaded, corpus) -> None:
    model, train = loaded("ctc"), corpus(3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tune(model, train, settings=replace(QUICK, steps=2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", ["wav2vec2-conformer", "wavlm", "hubert"])
def test_networks_whose_padding_matters_are_tuned_too(ctc_folder, corpus, kind: str) -> None:
    import asrlife

    model = asrlife.load(ctc_folder(kind, "layer" if kind == "wavlm" else "group"))
    before = model.fingerprint()
    found = tune(model, corpus(4), corpus(2, seed=1), replace(QUICK, steps=3))
    assert model.fingerprint() == before and found.delta.norm() > 0
    assert not [name for name in found.delta.tensors if "running" in name]  # statistics of a batch norm are left alone
    task = task_of(model)
    items = [task.item(utterance) for utterance in corpus(2, seed=1)]
    best = next(line for line in found.history if line["step"] == found.best_step)
    with applied(model.module, found.delta):
        assert task.score(items)["loss"] == pytest.approx(best["dev_loss"], rel=1e-5)


def test_accumulated_batches_are_one_large_one(loaded, corpus) -> None:
    """Of utterances of one length and texts of one, where the mean of means is the mean."""
    model, train = loaded("ctc"), corpus(1)
    (one,) = train.utterances
    rows = tuple(replace(one, id=str(place)) for place in range(4))
    still = replace(QUICK, steps=2, mask_time=0.0, dropout=False, clip=1e9)
    length = one.audio.duration  # type: ignore[union-attr]
    many = tune(model, replace(train, utterances=rows), settings=replace(still, batch_seconds=2.01 * length, accumulate=2)).delta
    few = tune(model, replace(train, utterances=rows), settings=replace(still, batch_seconds=4.01 * length)).delta
    assert (many - few).norm() < 1e-3 * few.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_learns_alike(loaded, corpus, kind: str) -> None:
    model, train = loaded(kind), corpus(4)
    settings = replace(QUICK, scope="lora", steps=4, mask_time=0.0, dropout=False)
    full, mixed = (tune(model, train, settings=replace(settings, precision=precision)).delta for precision in ("no", "bf16"))
    assert full.cosine(mixed) > 0.8 and (full - mixed).norm() > 0


def test_the_card_says_what_it_was_made_of(loaded, corpus, tmp_path) -> None:
    model, train, dev = loaded("whisper"), corpus(4), corpus(2, seed=1)
    found = tune(model, train, dev, replace(QUICK, scope="cross-attention", without=("norm",)), keep=[LwF(0.5)])
    file.save(found.delta, tmp_path / "d.safetensors")
    note = file.load(tmp_path / "d.safetensors").note
    assert note["method"] == "tune" and note["of"] == model.name and note["seed"] == 0
    assert note["evidence"]["train"]["utterances"] == 4 and len(note["evidence"]["dev"]["fingerprint"]) == 64
    assert note["settings"]["scope"] == "cross-attention" and note["settings"]["without"] == ["norm"]
    assert note["keep"] == [{"name": "lwf", "strength": 0.5, "temperature": 2.0}]
    assert [line["step"] for line in note["history"]] == [0, 3, 6] and note["seconds"] > 0
    assert set(note["scores"]["dev_wer"]) == {"before", "after"}
    assert all("encoder_attn" in name and "layer_norm" not in name for name in found.delta.tensors)


def test_augmentation_never_makes_an_utterance_unusable(loaded, corpus) -> None:
    model = loaded("whisper")  # whose window is 2 s
    (one,) = corpus(1).utterances
    from asrlife.audio.waveform import Waveform

    full = replace(one, audio=Waveform(one.audio.samples[:1600].repeat(20), 16_000))  # type: ignore[union-attr]
    assert full.audio.duration == 2.0  # type: ignore[union-attr]
    found = tune(model, replace(corpus(1), utterances=(full,)), settings=replace(QUICK, steps=2), change=Augment(speed=0.4))
    assert found.delta.norm() > 0


def test_steps_come_from_epochs_where_they_are_not_given(loaded, corpus) -> None:
    seen = []

    class Count(Quiet):
        def stage(self, name, total):
            seen.append((name, total))
            return super().stage(name, total)

    settings = replace(QUICK, steps=0, epochs=3, batch_seconds=0.7, every=100)  # one utterance a batch
    tune(loaded("ctc"), corpus(4), settings=settings, watch=Count())
    assert seen == [("reading", 4), ("tuning", 12)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scope": "encodr"}, "scope 'encodr': there is no 'encodr'"),
        ({"scope": "cross-attention"}, "scope 'cross-attention' leaves no weight of this model"),
        ({"scope": "regex:("}, "no regular expression"),
        ({"scope": "lora", "rank": 1000}, "scope 'lora' leaves no weight"),
    ],
)
def test_a_scope_that_leaves_nothing_is_said(loaded, corpus, settings, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        tune(loaded("ctc"), corpus(2), settings=Settings(steps=1, **settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": 0}, "tune: rate: .*greater than 0"),
        ({"precision": "fp16"}, "tune: precision: .*'no' or 'bf16'"),
        ({"mask_time": 0.7}, "tune: mask_time: "),
        ({"noise": float("nan")}, "tune: noise: nan is no SNR"),
        ({"epochs": 0}, "tune: epochs: "),
    ],
)
def test_a_setting_beyond_its_limits_is_said(settings, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings(**settings)


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_lora_learnt(loaded, corpus, folders, tmp_path, kind: str) -> None:
    """Exported to peft's folder the factors say the same, but for the rounding of B(A x) against (B A) x."""
    from peft import PeftModel

    from asrlife.delta.lora import read_lora, write_lora

    model, train = loaded(kind), corpus(3)
    delta = tune(model, train, settings=replace(QUICK, scope="lora", rank=3)).delta
    write_lora(delta, tmp_path / "adapter", model.module)
    task = task_of(model)
    given = task.given([task.item(utterance) for utterance in train])
    with torch.no_grad():
        with applied(model.module, delta):
            expected = task.of(replace(model)).taught(given).logits
        back = read_lora(tmp_path / "adapter", model.module)
        assert all(torch.equal(back.tensors[name].dense(), change.dense()) for name, change in delta.tensors.items())
        peft = PeftModel.from_pretrained(model.module, tmp_path / "adapter").merge_and_unload().eval()
        found = task.of(replace(model, module=peft)).taught(given).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
