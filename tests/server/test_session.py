from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.endpointing import External
from asrlife_server.opening import ENCODINGS, opened_with
from asrlife_server.session import Session

SHORT = pb.Endpointing(mode=pb.Endpointing.EXTERNAL, max_utterance_ms=500)


@pytest.fixture
def session(fakes, asked):
    def begin(**fields):
        opening = opened_with(pb.StreamingRequest(config=asked(**fields)), ServerConfig(), fakes.model, fakes.make)
        return Session(
            "s", opening, fakes.model, External(opening.rules.longest_ms * opening.rate // 1000), opening.method.start(fakes.model)
        )

    return begin


def audio(samples):
    return pb.Audio(content=samples.astype("<i2").tobytes())


def test_a_step_changes_nothing_before_it_is_committed(session, noise, fakes):
    one = session()
    one.hear(audio(noise(1, 1600)))
    (spoken,) = one.finalise().work
    before = one.state
    step = one.learning(one.lesson(spoken)).alone(fakes.model)
    assert one.state is before and one.version == 0
    messages = one.commit(step)
    assert one.state is step.state and one.version == 1
    assert [m.WhichOneof("response") for m in messages] == ["refinement", "adaptation_event"]


def test_the_step_hears_exactly_the_samples_that_came(session, noise):
    one, samples = session(), noise(3, 2000)
    for at in range(0, 2000, 333):
        one.hear(audio(samples[at : at + 333]))
    (spoken,) = one.finalise().work
    assert np.array_equal(spoken.segment.samples, samples.astype(np.float32) / 32768)


def test_interim_results_keep_their_distance(session, noise):
    one = session(interim=pb.Interim(enable=True, min_interval_ms=250))
    work = [one.hear(audio(noise(0, 1600))).work for _ in range(10)]
    assert [len(piece) for piece in work] == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert [piece[0].segment.end for piece in work if piece] == [4800, 9600, 14400] and not work[2][0].whole
    one.finalise()
    assert [len(one.hear(audio(noise(0, 1600))).work) for _ in range(3)] == [0, 0, 1]


def test_other_rates_are_heard_at_16_khz(session, noise, fakes):
    one = session(sample_rate_hz=48_000)
    one.hear(audio(noise(1, 48_000)))
    (spoken,) = one.finalise().work
    one.recognition(spoken).alone(fakes.model)
    assert fakes.model.heard == [16_000]
    assert one.told(spoken, one.recognition(spoken).alone(fakes.model)).result.end.ToMilliseconds() == 1000


def test_audio_that_the_method_cannot_take_is_skipped_with_its_reason(session, noise, fakes):
    def refuse():
        raise InputError("longer than the window of 8 s")

    fakes.hook = refuse
    one = session()
    one.hear(audio(noise(1, 1600)))
    (spoken,) = one.finalise().work
    (message,) = one.commit(one.learning(one.lesson(spoken)).alone(fakes.model))
    assert message.adaptation_event.reason == "longer than the window of 8 s" and one.version == 0


def test_finalising_nothing_is_nothing(session):
    heard = session().finalise()
    assert (heard.messages, heard.work) == ([], [])


def test_clipped_sound_is_warned_of_and_decoded(session):
    one = session()
    tone = np.clip(3 * np.sin(np.arange(8000) / 20), -1, 1) * 32_767
    one.hear(audio(tone))
    heard = one.finalise()
    assert [message.warning.code for message in heard.messages] == ["CLIPPED"] and len(heard.work) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=12), st.sampled_from(["PCM16", "MULAW", "FLOAT32"]))
def test_sound_that_is_put_away_unheard_is_all_there_in_its_order(session, chunks, encoding):
    content = np.random.default_rng(0).integers(0, 64, sum(size for size, _ in chunks)).astype(np.uint8).tobytes()
    samples, at, one = [], 0, session(encoding=pb.Encoding.Value(encoding), endpointing=SHORT)
    for size, ended in chunks:
        part, at = content[at : at + size], at + size
        work = [] if one.put_away(part) else one.hear(pb.Audio(content=part)).work
        samples += [spoken.segment.samples for spoken in work + (one.finalise().work if ended else [])]
    samples += [spoken.segment.samples for spoken in one.finalise().work]
    whole = ENCODINGS[pb.Encoding.Value(encoding)](16_000).decode(content)
    assert np.array_equal(np.concatenate([whole[:0], *samples]), whole) and all(0 < len(each) <= 8000 for each in samples)
    assert one.totals.audio == len(whole) / 16_000


def test_what_is_put_away_unheard_leaves_out_nothing_that_is_due(session, noise):
    one = session(interim=pb.Interim(enable=True, min_interval_ms=250), cursors=True)
    content, told, away = noise(0, 1600).tobytes(), [], 0
    for chunk in range(1, 31):
        if one.put_away(content):
            away += 1
            continue
        heard = one.hear(pb.Audio(content=content))
        told += [(chunk, "interim") for _ in heard.work] + [(chunk, "cursors") for _ in heard.messages]
    assert [chunk for chunk, kind in told if kind == "interim"] == list(range(3, 31, 3))
    assert [chunk for chunk, kind in told if kind == "cursors"] == [10, 20, 30] and away == 30 - 12
