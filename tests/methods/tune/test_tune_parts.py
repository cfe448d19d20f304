"""Scopes, order, schedule, SpecAugment."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.waveform import Waveform
from asrlife.delta.delta import Delta
from asrlife.delta.weights import adopt, applied
from asrlife.methods.tune.batches import batches_of, epoch, stream
from asrlife.methods.tune.masking import Augment, drawn, masked, masking, shown
from asrlife.methods.tune.scope import moving, selection
from asrlife.methods.tune.settings import Settings
from asrlife.methods.tune.task import Item, task_of, train, word_errors


def test_scopes_choose_what_they_say(loaded) -> None:
    ctc, whisper, lm = (loaded(kind).module for kind in ("ctc", "whisper", "lm"))
    assert set(selection(ctc, "full")) == {name for name, _ in ctc.named_parameters()}
    assert "model.encoder.embed_positions.weight" not in selection(whisper, "full")  # fixed sinusoids
    assert all(".encoder_attn" in name for name in selection(whisper, "cross-attention"))
    assert set(selection(whisper, "encoder+decoder")) == set(selection(whisper, "encoder")) | set(selection(whisper, "decoder"))
    assert set(selection(whisper, "norms")) == set(selection(whisper, "norm"))
    assert not set(selection(whisper, "full", without=("norm",))) & set(selection(whisper, "norms"))
    matrices = selection(lm, "lora", rank=4)
    assert len(matrices) == 2 * 7 and all(name.startswith("model.layers.") and name.endswith("proj.weight") for name in matrices)
    assert set(selection(lm, "regex:q_proj")) == {name for name in matrices if "q_proj" in name}
    assert set(selection(whisper, "lora+decoder")) < set(selection(whisper, "lora"))


@pytest.mark.parametrize(("rank", "exact"), [(2, True), (None, False)])
@pytest.mark.parametrize("kind", ["ctc", "whisper", "lm"])
def test_the_delta_gives_the_tuned_scores(loaded, corpus, kind: str, rank: int | None, exact: bool) -> None:
    """Factors to the last bit; whole tensors but for the rounding of W - W0."""
    model = loaded(kind)
    task, base = task_of(model), model.fingerprint()
    batch = task.given([task.item(utterance) for utterance in corpus(2)])
    with moving(model.module, selection(model.module, "lora", rank=2), rank) as live, torch.no_grad():
        for leaf in live.leaves:
            leaf.add_(torch.randn_like(leaf), alpha=0.1)
        tuned = task.of(replace(model)).taught(batch).logits
        delta = Delta(base, live.changes(live.state()))
    with torch.no_grad(), applied(model.module, delta):
        again = task.of(replace(model)).taught(batch).logits
    assert torch.equal(tuned, again) if exact else torch.allclose(tuned, again, atol=1e-4, rtol=1e-4)
    adopt(model.module, delta)
    with torch.no_grad():
        assert torch.equal(task.of(replace(model)).taught(batch).logits, again)
    assert model.fingerprint() != base


def test_state_and_load_are_each_others_inverse(loaded) -> None:
    module = loaded("ctc").module
    for rank in (None, 2):
        with moving(module, selection(module, "lora", rank=2), rank) as live, torch.no_grad():
            kept = live.state()
            for leaf in live.leaves:
                leaf.add_(1.0)
            moved = live.state()
            live.load(kept)
            assert all(torch.equal(live.state()[name], kept[name]) and not torch.equal(moved[name], kept[name]) for name in kept)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.1, 30), min_size=1, max_size=60), st.floats(1, 60), st.integers(0, 99), st.integers(0, 9))
def test_an_epoch_sees_each_utterance_once_in_batches_that_fit(sizes, most, seed, number) -> None:
    groups = epoch(sizes, most, seed, number)
    assert sorted(place for group in groups for place in group) == list(range(len(sizes)))
    assert all(len(group) == 1 or len(group) * max(sizes[place] for place in group) <= most + 1e-9 for group in groups)
    assert groups == epoch(sizes, most, seed, number)


def test_lengths_within_a_batch_are_alike() -> None:
    sizes = list(np.random.default_rng(0).uniform(1, 20, 400))
    padded = sum(len(group) * max(sizes[place] for place in group) for group in epoch(sizes, 60, 0, 0))
    assert padded < 1.1 * sum(sizes)


def test_the_stream_goes_on_where_it_is_told_to(corpus) -> None:
    items = [Item(utterance, "x", 1.0 + place) for place, utterance in enumerate(corpus(7))]

    def ids(batches):
        return [[item.utterance.id for item in batch] for batch in batches]

    whole = ids(islice(stream(items, 9.0, 3), 40))
    for skipped in (0, 1, 5, 17):
        assert ids(islice(stream(items, 9.0, 3, skipped), 40 - skipped)) == whole[skipped:]
    count = batches_of(items, 9.0, 3, 2)
    assert sorted(sum(whole[:count], [])) == sorted(2 * [item.utterance.id for item in items])
    assert whole[: batches_of(items, 9.0, 3, 1)] != whole[batches_of(items, 9.0, 3, 1) : count]


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)])
def test_the_rate_rises_and_falls(schedule, middle, end) -> None:
    told = Settings(schedule=schedule, warmup=0.1)
    rates = [told.share(step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)]) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(middle) and rates[100] == pytest.approx(end, abs=1e-12)


def test_whisper_hides_parts_of_the_sound_and_none_of_the_silence(loaded, corpus) -> None:
    model = loaded("whisper")
    batch = model.prepare([utterance.waveform() for utterance in corpus(3)])
    with masking(model.module, Settings(mask_time=0.3, mask_features=0.2, mask_span=5)):
        model.module.eval()
        assert masked(model, batch) is batch
        train(model.module, dropout=False, hides=True)
        with drawn(1, 2), shown(model, batch, True):
            hidden = masked(model, batch)
        with drawn(1, 2), shown(model, batch, False):
            assert torch.equal(masked(model, batch).inputs, batch.inputs)
    model.module.eval()
    changed = hidden.inputs != batch.inputs
    whole = changed.all(1)  # frames that are hidden in all bands
    frames = (batch.lengths / model.extractor.hop_length).ceil().long().tolist()
    assert all(bool(row[:count].any()) and not bool(row[count:].any()) for row, count in zip(whole, frames, strict=True))
    assert not model.module.config.apply_spec_augment


def test_a_ctc_network_hides_frames_while_it_trains_and_only_then(loaded, corpus) -> None:
    model = loaded("ctc")
    task = task_of(model)
    batch = task.given([task.item(utterance) for utterance in corpus(2)])
    with torch.no_grad(), masking(model.module, Settings(mask_time=0.3, mask_span=5)):
        train(model.module, dropout=False, hides=True)
        with drawn(1):
            one = task.taught(batch, hide=True).logits
        with drawn(1):
            same, plain = task.taught(batch, hide=True).logits, task.taught(batch).logits
        model.module.eval()
        assert torch.allclose(plain, task.taught(batch).logits, atol=1e-4)
    assert torch.equal(one, same) and not torch.allclose(one, plain, atol=1e-2)


def test_sound_too_short_for_a_span_is_shown(loaded, corpus) -> None:
    model = loaded("ctc")
    task = task_of(model)
    batch = task.given([task.item(utterance) for utterance in corpus(1)])
    with torch.no_grad(), masking(model.module, Settings(mask_time=0.3, mask_span=1000)):
        train(model.module, dropout=False, hides=True)
        shown_scores = task.taught(batch, hide=True).logits
        model.module.eval()
        assert torch.allclose(shown_scores, task.taught(batch).logits, atol=1e-4)


def test_dropout_is_on_or_off_as_it_is_told(loaded) -> None:
    module = loaded("whisper").module
    train(module, dropout=True, hides=False)
    assert all(part.training for part in module.modules())
    train(module, dropout=False, hides=True)
    assert [type(part).__name__ for part in module.modules() if part.training] == ["WhisperForConditionalGeneration", "WhisperModel"]
    train(module, dropout=False, hides=False)
    assert not any(part.training for part in module.modules())


def test_augmentation_changes_speed_and_adds_noise_at_its_level() -> None:
    wave = Waveform(0.1 * np.sin(np.arange(16_000) * 0.2), 16_000)
    with drawn(3) as rng:
        slow = Augment(speed=0.2)(wave, rng)
        noisy = Augment(noise=10.0)(wave, rng)
    assert slow.rate == 16_000 and 16_000 / 1.21 <= len(slow.samples) <= 16_000 / 0.79 and len(slow.samples) != 16_000
    noise = noisy.samples - wave.samples
    assert 9.9 <= 10 * np.log10((wave.samples**2).mean() / (noise**2).mean()) <= 30.1
    assert Augment().idle and not Augment(speed=0.1).idle


def test_words_are_counted_in_their_normal_form() -> None:
    assert word_errors("Go on now", "go now") == (1, 3)
