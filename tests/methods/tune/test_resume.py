"""A run that was cut off ends with the same bits; the best weights count; what cannot be is said."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
import torch

from asrlife.delta.weights import applied
from asrlife.errors import InputError
from asrlife.methods.tune import EWC, L2SP, LwF, Quiet, Replay, Settings, tune
from asrlife.methods.tune import checkpoint as checkpoints
from asrlife.methods.tune.task import Listening, task_of

SETTINGS = Settings(
    steps=7, rate=3e-3, batch_seconds=1.3, batch_tokens=32, every=2, accumulate=2, mask_span=4, rank=2, speed=0.1, patience=0
)


class Cut(Exception):
    pass


class Cutting(Quiet):
    """Ends the run at the n-th line of progress, as a kill would."""

    def __init__(self, most: int) -> None:
        self.left = most

    def tell(self, text: str) -> None:
        self.left -= 1
        if not self.left:
            raise Cut


def controls(corpus):
    old = corpus(4, seed=2)
    return [L2SP(0.1), EWC(old, 10.0), LwF(0.1), Replay(old, 0.3)]


def plain(history):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in history]


@pytest.mark.parametrize(("kind", "scope"), [("ctc", "full"), ("ctc", "lora"), ("whisper", "full"), ("lm", "lora")])
def test_cut_off_at_any_moment_it_ends_with_the_same_bits(loaded, corpus, tmp_path, kind: str, scope: str) -> None:
    train, dev, keep = corpus(5), corpus(2, seed=1), controls(corpus)
    settings, path = replace(SETTINGS, scope=scope), tmp_path / "c.safetensors"
    whole = tune(loaded(kind), train, dev, settings, keep=keep)
    model = loaded(kind)
    cuts = 0
    for most in (2, 4, 5, 3, 100):
        try:
            found = tune(model, train, dev, settings, keep=keep, resume=path, watch=Cutting(most))
            break
        except Cut:
            cuts += 1
            assert model.fingerprint() == whole.delta.base
    assert cuts >= 3
    assert found.delta.tensors.keys() == whole.delta.tensors.keys()
    assert all(torch.equal(found.delta.tensors[name].dense(), whole.delta.tensors[name].dense()) for name in whole.delta.tensors)
    assert plain(found.history) == plain(whole.history) and found.best_step == whole.best_step


def test_a_checkpoint_cut_off_while_written_leaves_the_one_before(loaded, corpus, tmp_path, monkeypatch) -> None:
    train, path = corpus(4), tmp_path / "c.safetensors"
    settings = replace(SETTINGS, accumulate=1, speed=0.0)
    whole = tune(loaded("ctc"), train, settings=settings)
    real, calls = os.replace, []

    def dying(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise Cut
        real(*paths)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Cut):
        tune(loaded("ctc"), train, settings=settings, resume=path)
    monkeypatch.setattr(os, "replace", real)
    assert [each.name for each in tmp_path.iterdir()] == ["c.safetensors"]
    found = tune(loaded("ctc"), train, settings=settings, resume=path).delta
    assert all(torch.equal(found.tensors[name].dense(), whole.delta.tensors[name].dense()) for name in whole.delta.tensors)


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(loaded, corpus, tmp_path) -> None:
    train, path, settings = corpus(3), tmp_path / "c.safetensors", replace(SETTINGS, steps=2)
    tune(loaded("ctc"), train, settings=settings, resume=path)
    with pytest.raises(InputError, match=r"is of another run \(settings.rate was 0.003 and is 0.001\): begin anew with --fresh"):
        tune(loaded("ctc"), train, settings=replace(settings, rate=1e-3), resume=path)
    with pytest.raises(InputError, match=r"is of another run \(keep was \[\] and is \[\{'name': 'l2sp'"):
        tune(loaded("ctc"), train, settings=settings, resume=path, keep=[L2SP()])
    with pytest.raises(InputError, match=r"is of another run \(data.train was"):
        tune(loaded("ctc"), corpus(3, seed=1), settings=settings, resume=path)
    with pytest.raises(InputError, match=r"is of another run \(base was"):
        tune(loaded("lm"), train, settings=settings, resume=path)


def test_a_damaged_checkpoint_is_refused(loaded, corpus, tmp_path) -> None:
    train, path, settings = corpus(3), tmp_path / "c.safetensors", replace(SETTINGS, steps=2)
    for content in (b"", b"nonsense", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read .*: remove it to begin anew"):
            tune(loaded("ctc"), train, settings=settings, resume=path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is no checkpoint of `asrlife tune`"):
        tune(loaded("ctc"), train, settings=settings, resume=path)
    checkpoints.write(path, {}, {}, {"now.a": torch.tensor([math.nan])})
    with pytest.raises(InputError, match="'now.a' holds NaN or Inf"):
        checkpoints.read(path, {})


def scripted(monkeypatch, scores):
    """The dev set gives these WERs, one after the other."""
    told, real = iter(scores), Listening.score

    def score(self, items):
        real(self, items)  # puts the module into evaluation mode, as scoring does
        return {"wer": next(told), "loss": 1.0}

    monkeypatch.setattr(Listening, "score", score)


def test_the_best_weights_count_and_patience_ends_the_run(loaded, corpus, monkeypatch) -> None:
    model, settings = loaded("ctc"), replace(SETTINGS, steps=50, every=1, patience=3, accumulate=1, schedule="constant", warmup=0.0)
    scripted(monkeypatch, [0.9, 0.7, 0.5, 0.6, 0.8, 0.55, 0.1])
    found = tune(model, corpus(3), corpus(2, seed=1), settings)
    assert found.best_step == 2 and len(found.history) == 6
    assert found.stopped == "no better wer on the dev set in 3 scores" == found.delta.note["scores"]["stopped"]
    short = tune(model, corpus(3), settings=replace(settings, steps=2))  # the same first steps, without a dev set
    assert all(torch.equal(found.delta.tensors[name].dense(), short.delta.tensors[name].dense()) for name in short.delta.tensors)


def test_where_nothing_beats_the_base_the_delta_is_empty(loaded, corpus, monkeypatch, tmp_path) -> None:
    from asrlife.delta import file

    scripted(monkeypatch, [0.5, 0.6, 0.7, 0.8])
    model = loaded("ctc")
    found = tune(model, corpus(3), corpus(2, seed=1), replace(SETTINGS, every=2, patience=3, accumulate=1))
    assert found.best_step == 0 and not found.delta.tensors
    file.save(found.delta, tmp_path / "d.safetensors")
    with applied(model.module, file.load(tmp_path / "d.safetensors")):
        assert model.fingerprint() == found.delta.base


def test_equal_error_rates_are_told_apart_by_the_loss_and_nan_never_wins(loaded, corpus, monkeypatch) -> None:
    told = iter([(0.5, 2.0), (0.5, 1.5), (math.nan, 0.1), (0.5, 1.7), (0.5, 1.4)])
    monkeypatch.setattr(Listening, "score", lambda self, items: dict(zip(("wer", "loss"), next(told), strict=True)))
    found = tune(loaded("ctc"), corpus(3), corpus(2, seed=1), replace(SETTINGS, steps=4, every=1, accumulate=1))
    assert found.best_step == 4 and found.history[2]["dev_wer"] is None


def test_the_loss_chooses_where_it_is_asked_for(loaded, corpus, monkeypatch) -> None:
    told = iter([(0.5, 2.0), (0.9, 1.0), (0.1, 3.0)])
    monkeypatch.setattr(Listening, "score", lambda self, items: dict(zip(("wer", "loss"), next(told), strict=True)))
    found = tune(loaded("ctc"), corpus(3), corpus(2, seed=1), replace(SETTINGS, steps=2, every=1, accumulate=1, metric="loss"))
    assert found.best_step == 1


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_gradients_that_are_not_finite_are_skipped_and_counted(loaded, corpus, monkeypatch, scope: str) -> None:
    real, calls = Listening.taught, []

    def taught(self, given, hide=False):
        found = real(self, given, hide)
        calls.append(hide)
        return replace(found, loss=found.loss * math.inf) if hide and sum(calls) == 2 else found

    settings = replace(SETTINGS, scope=scope, steps=4, every=4, accumulate=1)
    monkeypatch.setattr(Listening, "taught", taught)
    found = tune(loaded("ctc"), corpus(3), settings=settings)
    assert found.history[-1]["skipped"] == 1 == found.delta.note["scores"]["skipped"]
    assert all(bool(torch.isfinite(change.dense()).all()) for change in found.delta.tensors.values()) and found.delta.norm() > 0


def test_a_run_without_any_finite_gradient_is_given_up(loaded, corpus, monkeypatch) -> None:
    real = Listening.taught
    monkeypatch.setattr(Listening, "taught", lambda self, given, hide=False: replace(f := real(self, given, hide), loss=f.loss * math.nan))
    with pytest.raises(InputError, match="no gradient since step 0 was finite: give a lower rate"):
        tune(loaded("ctc"), corpus(3), settings=replace(SETTINGS, accumulate=1))


def test_dev_is_scored_under_the_weights_of_now(loaded, corpus) -> None:
    """A handle that keeps something of its weights must not answer for the ones before."""
    model, train, dev = loaded("ctc"), corpus(4), corpus(3, seed=1)
    settings = replace(SETTINGS, steps=4, every=1, rate=2e-2, accumulate=1, speed=0.0)
    found = tune(model, train, dev, settings)
    task = task_of(model)
    items = [task.item(utterance) for utterance in dev]
    with applied(model.module, found.delta):
        heard = task.score(items)
    best = found.history[found.best_step]
    assert heard["wer"] == best["dev_wer"] and heard["loss"] == pytest.approx(best["dev_loss"], rel=1e-5)
