from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife_server.ears import Silero, judged
from asrlife_server.endpointing import Began, External, Listening, Rules, Segment
from asrlife_server.sound import Resampler, float32, pcm16

RULES = Rules(start_ms=64, stop_ms=320, longest_ms=3000, threshold=0.5, pre_roll_ms=100, post_roll_ms=96)


def loudness(window):
    return float(np.abs(window).mean() > 0.1)


def told(plan, rate=16_000):
    """Seconds of sound (+) and silence (-), one after the other."""
    rng = np.random.default_rng(0)
    parts = [rng.choice([-0.5, 0.5], round(abs(s) * rate)) if s > 0 else np.zeros(round(-s * rate)) for s in plan]
    return np.concatenate(parts).astype(np.float32)


def run(endpointer, samples, chunk=1600):
    events = [event for at in range(0, len(samples), chunk) for event in endpointer.feed(samples[at : at + chunk])]
    return events + list(endpointer.flush())


def test_one_utterance_by_hand():
    samples = told([-1.024, 0.512, -1.024])  # 32 windows of silence, 16 of sound, 32 of silence
    began, segment = run(Listening(loudness, 16_000, RULES), samples)
    assert began == Began(32 * 512 - 1600)  # the pre-roll before the first loud window
    assert (segment.start, segment.end) == (32 * 512 - 1600, 48 * 512 + 1536)  # the post-roll behind the last one
    assert np.array_equal(segment.samples, samples[segment.start : segment.end]) and not segment.forced


def test_a_click_is_no_speech_and_a_breath_is_no_end():
    assert run(Listening(loudness, 16_000, RULES), told([-1, 0.03, -1])) == []
    events = run(Listening(loudness, 16_000, RULES), told([-1, 0.5, -0.2, 0.5, -1]))
    assert [type(event) for event in events] == [Began, Segment]


def test_speech_without_a_pause_is_cut_without_loss():
    samples = told([7.0])
    segments = [event for event in run(Listening(loudness, 16_000, RULES), samples) if isinstance(event, Segment)]
    assert [segment.forced for segment in segments] == [True, True, False]
    assert np.array_equal(np.concatenate([segment.samples for segment in segments]), samples)


def test_the_end_of_the_stream_ends_an_utterance():
    events = run(Listening(loudness, 16_000, RULES), told([-0.5, 1.0]))
    assert isinstance(events[-1], Segment) and events[-1].end == 24_000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4000), min_size=1, max_size=40), st.sampled_from([8_000, 16_000, 44_100]))
def test_the_size_of_chunks_changes_nothing(sizes, rate):
    samples = told([-0.6, 0.8, -0.5, 0.4, -0.2], rate)
    edges = np.minimum(np.cumsum([0, *sizes]), len(samples))
    pieces = [samples[a:b] for a, b in zip(edges, edges[1:], strict=False)] + [samples[edges[-1] :]]
    endpointer = Listening(loudness, rate, RULES)
    events = [event for piece in pieces for event in endpointer.feed(piece)] + endpointer.flush()
    whole = Listening(loudness, rate, RULES)
    assert [_plain(event) for event in events] == [_plain(event) for event in [*whole.feed(samples), *whole.flush()]]


def _plain(event):
    return event if isinstance(event, Began) else (event.start, event.end, event.samples.tobytes())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 900), max_size=12))
def test_external_utterances_lose_and_add_nothing(sizes):
    endpointer, samples = External(longest=1000), np.arange(sum(sizes), dtype=np.float32)
    events = run(endpointer, samples, 700)
    assert np.array_equal(np.concatenate([event.samples for event in events] or [samples[:0]]), samples)
    assert all(len(event.samples) <= 1000 for event in events) and endpointer.open is None


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000])
def test_resampling_piece_by_piece_is_resampling_at_once(rate):
    samples = np.random.default_rng(rate).normal(0, 0.1, rate).astype(np.float32)
    resampler = Resampler(rate)
    pieces = np.concatenate([resampler.feed(samples[at : at + 777]) for at in range(0, rate, 777)])
    whole = Waveform(samples, rate).resampled(16_000).samples
    assert len(pieces) > 0.95 * len(whole)
    assert np.abs(pieces - whole[: len(pieces)]).max() < 1e-6


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 50), max_size=8))
def test_bytes_cut_anywhere_decode_alike(data, cuts):
    decoder, edges = pcm16(), sorted(min(cut, len(data)) for cut in [0, *cuts, len(data)])
    pieces = [decoder.decode(data[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    assert np.array_equal(np.concatenate([np.zeros(0), *pieces]), Waveform.from_pcm16(data[: len(data) // 2 * 2], 16_000).samples)
    assert decoder.left_over == len(data) % 2


def test_float32_is_taken_as_it_is():
    samples = np.array([0.25, -1.0, 1e-9], np.float32)
    assert np.array_equal(float32().decode(samples.astype("<f4").tobytes()), samples)


def test_ears_share_a_network_but_no_memory():
    silero = Silero()
    rng = np.random.default_rng(0)
    windows = [rng.normal(0, 0.3, 512).astype(np.float32) for _ in range(4)]
    first, second = silero.ear(), silero.ear()
    alone = [first(window) for window in windows]
    assert len(set(alone)) == 4  # it remembers
    third = silero.ear()
    mixed = [(second(window), third(windows[0])) for window in windows]
    assert [speech for speech, _ in mixed] == alone


def test_ears_that_listen_together_hear_what_they_would_alone():
    silero, rng = Silero(), np.random.default_rng(0)
    spoken = speak("turn on the kitchen light").resampled(16_000).samples
    streams = [np.roll(spoken, 999 * row) + 0.01 * rng.standard_normal(len(spoken)).astype(np.float32) for row in range(4)]
    windows = [list(samples[: 512 * (20 + row)].reshape(-1, 512)) for row, samples in enumerate(streams)]
    alone = [[ear(window) for window in own] for ear, own in zip([silero.ear() for _ in windows], windows, strict=True)]
    ears = [*(silero.ear() for _ in windows), lambda window: 0.25, None]
    found = judged(ears, [*windows, windows[0][:2], []])
    assert found[4:] == [[0.25, 0.25], []]
    for there, here in zip(found[:4], alone, strict=True):
        assert there == pytest.approx(here, abs=1e-5)
    assert max(map(max, alone)) > 0.9
