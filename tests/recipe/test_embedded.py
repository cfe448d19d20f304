from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from asrlife.recipe.embedded import ctc, whisper
from asrlife.recipe.embedded.augment import add_noise, augment, change_speed, normalise
from asrlife.recipe.embedded.speech import HELD_OUT, RATE, VARIANTS, Speech, digit_strings, is_open, real
from asrlife.recipe.embedded.training import Schedule, batches, optimisers
from asrlife.text.grammar import Grammar

GRAMMAR = Path(__file__).parents[2] / "recipes" / "embedded" / "grammar.yaml"


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar.read(GRAMMAR)


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def speech_of(*seconds: float) -> Speech:
    return Speech.of([((tone(s) * 9000).astype(np.int16), f"a{i}", "tone") for i, s in enumerate(seconds)])


def test_the_grammar_has_the_promised_variety(grammar: Grammar) -> None:
    from itertools import islice

    assert len(grammar.vocabulary()) > 1500
    assert len(set(islice(grammar.stream(1, "assistant"), 5000))) == 5000
    assert not {c for s in islice(grammar.stream(2), 2000) for c in s} - set("abcdefghijklmnopqrstuvwxyz' ")


def test_the_same_seed_draws_the_same_sentences(grammar: Grammar) -> None:
    one, two = ([grammar.sample(random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert one == two


def test_no_held_out_voice_is_trained_on() -> None:
    assert not set(VARIANTS) & {voice for split in HELD_OUT.values() for voice in split}
    assert not set(HELD_OUT["dev"]) & set(HELD_OUT["test"])


def test_speech_survives_the_disk(tmp_path: Path) -> None:
    speech = speech_of(0.5, 1.0, 0.25)
    speech.save(tmp_path / "s.npz")
    back = Speech.load(tmp_path / "s.npz")
    assert back.texts == speech.texts and back.seconds.tolist() == [0.5, 1.0, 0.25]
    assert all(np.array_equal(back[i], speech[i]) for i in range(3))


def test_only_the_named_split_is_read(shared: Path) -> None:
    manifest = shared / "speech-grid" / "transcripts.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    for split in ("train", "test"):
        assert sorted(real(manifest, split).texts) == sorted(r["text"] for r in rows if r["split"] == split)


def test_digit_strings_say_what_they_hold(shared: Path) -> None:
    strings = digit_strings(shared / "speech-digits" / "transcripts.jsonl", "dev", 12, seed=1)
    assert len(strings) == 12
    assert {w for t in strings.texts for w in t.split()} <= set("zero one two three four five six seven eight nine".split())


def test_batches_keep_to_their_seconds() -> None:
    stream = batches([(speech_of(0.5, 1.0, 2.0), 1.0)], seconds=12.0, seed=1)
    for _ in range(20):
        batch = next(stream)
        assert len(batch) * max(len(wave) for wave, _ in batch) / RATE < 12 * 1.35  # speed and padding come after the cut


def test_batches_leave_out_what_is_too_long() -> None:
    stream = batches([(speech_of(0.5, 3.0), 1.0)], seconds=12.0, seed=1, longest=1.0)
    assert {text for _ in range(10) for _, text in next(stream)} == {"a0"}


def test_open_sentences_are_neither_commands_nor_digits() -> None:
    assert [is_open(t) for t in ("bin blue at f two now", "one two", "turn on the light", "set an alarm for one day")] == [
        False,
        False,
        True,
        True,
    ]


def test_the_schedule_rises_and_falls() -> None:
    schedule = Schedule(steps=1000, warmup=10)
    assert schedule.share(0) == pytest.approx(0.1, rel=0.01)
    assert schedule.share(9) == pytest.approx(1.0, rel=0.01)
    assert schedule.share(1000) == pytest.approx(0.03, rel=0.01)


def test_every_parameter_has_one_optimiser() -> None:
    model = ctc.build(hidden=48, layers=1)
    for matrices in (None, 1e-3):
        held = [p for o in optimisers(model, Schedule(10, matrices=matrices)) for g in o.param_groups for p in g["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))


def test_augmented_audio_is_normal_and_depends_on_the_generator_alone() -> None:
    wave = tone(1.0)
    one, two = (augment(wave, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, two)
    assert abs(one.mean()) < 1e-4 and one.std() == pytest.approx(1.0, abs=1e-2)
    assert np.isfinite(augment(np.zeros(8000, np.float32), np.random.default_rng(1))).all()


def test_noise_has_the_asked_level() -> None:
    wave = tone(2.0)
    noise = add_noise(wave, 10.0, np.random.default_rng(0)) - wave
    assert 10 * np.log10(wave.var() / noise.var()) == pytest.approx(10.0, abs=0.1)
    assert len(change_speed(wave, 1.25)) == pytest.approx(len(wave) / 1.25, abs=2)


def test_the_sinusoid_bank_is_a_filterbank() -> None:
    import torch

    bank = ctc.sinusoid_bank()
    centres = ctc.mel_centres(ctc.BANDS)
    for band in (20, 40, 60):
        wave = torch.from_numpy(normalise(tone(0.5, float(centres[band]))))[None, None]
        power = torch.nn.functional.conv1d(wave, bank, stride=ctc.HOP).square().mean((0, 2))
        loudest = int(power.reshape(ctc.BANDS, ctc.PHASES).sum(1).argmax())
        assert abs(loudest - band) <= 3


def test_ctc_spelling_by_hand() -> None:
    ids = [ctc.LETTERS.index(c) if c != "_" else 0 for c in "bb_ii_n|b|_ll_lu"]
    assert ctc.spell(ids) == "bin b llu"


def test_whisper_tokens_of_two_segments_by_hand() -> None:
    spelt = whisper.spell([whisper.Segment(0.1, 0.5, "ab"), whisper.Segment(1.0, 1.2, "c")], timed=True)
    text = whisper.tokenizer().decode(spelt, decode_with_timestamps=True)
    assert text == "<|startoftranscript|><|en|><|transcribe|><|0.10|> ab<|0.50|><|1.00|> c<|1.20|><|endoftext|>"


def test_windows_hold_what_was_packed() -> None:
    batch = [(tone(2.0), "one"), (tone(2.5), "two"), (tone(7.0), "too long"), (tone(5.0), "three")]
    windows = whisper.pack(batch, np.random.default_rng(0))
    assert [s.text for _, segments in windows for s in segments] == ["one", "two", "three"]
    assert all(len(wave) <= whisper.WINDOW_S * RATE for wave, _ in windows)
    assert all(s.end <= len(wave) / RATE + 0.02 for wave, segments in windows for s in segments)


@pytest.mark.slow
def test_the_recipe_builds_all_three_models(tmp_path: Path) -> None:
    from contextlib import contextmanager

    import asrlife
    from asrlife.recipe.recipe import read
    from asrlife.recipe.run import run

    @contextmanager
    def bar(_title: str, _total: int | None):  # type: ignore[no-untyped-def]
        yield lambda: None

    recipe = read(GRAMMAR.parent / "recipe.yaml", tiny=True)
    results = run(recipe, tmp_path, bar)
    assert set(results["steps"]["models"]) == {"ctc-tts", "ctc", "whisper"}
    for name in ("ctc-tts", "ctc", "whisper"):
        model = asrlife.load(str(tmp_path / "models" / name))
        assert model.card["scores"][0]["utterances"] == 4
    before = (tmp_path / "ctc.pt").stat().st_mtime_ns
    run(recipe, tmp_path, bar)
    assert (tmp_path / "ctc.pt").stat().st_mtime_ns == before  # finished training is not done again


def test_a_conformer_block_starts_as_the_block_it_inherits() -> None:
    from asrlife.recipe.embedded import conformer

    torch.manual_seed(0)
    source = ctc.build(hidden=48, layers=2).eval()
    model = conformer.build(48, 2).eval()
    conformer.inherit(model, source, [3.0, 2.0])
    states = torch.randn(1, 7, 48)
    for mine, theirs, scale in zip(model.wav2vec2_conformer.encoder.layers, source.wav2vec2.encoder.layers, (3.0, 2.0), strict=True):
        expected = torch.nn.functional.layer_norm(theirs(states)[0], (48,)) * scale
        torch.testing.assert_close(mine(states), expected.reshape(1, 7, 48), atol=2e-5, rtol=1e-5)


def test_a_smaller_encoder_inherits_from_first_to_last() -> None:
    assert whisper.spread(4, 6) == [0, 2, 4, 5] and whisper.spread(6, 6) == [0, 1, 2, 3, 4, 5]


def test_muon_in_float32_steps_as_torchs_does() -> None:
    from asrlife.recipe.embedded.muon import Muon, orthogonalised

    torch.manual_seed(0)
    start = torch.randn(24, 40)
    singular = torch.linalg.svdvals(orthogonalised(start))
    assert 0.6 < float(singular.min()) and float(singular.max()) < 1.3
    moved = []
    for kind, more in ((Muon, {}), (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.01})):
        weight = torch.nn.Parameter(start.clone())
        optimiser = kind([weight], lr=1e-2, **more)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            weight.grad = torch.randn(24, 40, generator=generator)
            optimiser.step()
        moved.append(weight.detach() - start)
    assert float((moved[0] - moved[1]).norm() / moved[1].norm()) < 0.03  # bfloat16 against float32: 0.008 measured on (192, 768)
