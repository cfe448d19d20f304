from __future__ import annotations

import sys
import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from asrlife.audio.read import write
from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.client import Adapted, AsyncClient, Client, Closed, Control, Cursors, Final, Interim, Opened, Refined, ServerError, SpeechEvent
from asrlife.client.microphone import microphone
from asrlife.errors import InputError


@pytest.fixture(scope="module")
def speech():
    return speak("turn on the kitchen light")


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def test_info_names_the_model_and_the_methods(client):
    info = client.info()
    assert info.models[0].name == "embedded:ctc" and info.models[0].rate == 16_000 and len(info.models[0].base_hash) == 64
    assert {"none", "suta", "dsuta"} <= set(info.methods) and info.encodings == ("PCM16", "FLOAT32", "MULAW", "ALAW", "CONTAINER")


def test_events_come_in_order_as_values(client, speech):
    pause = Waveform(np.zeros(16_000, np.float32), 16_000)
    events = list(client.stream([speech, pause, speech], adapt="suta", settings={"steps": 1}, interim=0.5, words=True, speech_events=True))
    assert isinstance(events[0], Opened) and isinstance(events[-1], Closed)
    assert events[0].method == "suta" and events[0].settings["steps"] == "1"
    first = [type(event) for event in events if getattr(event, "index", 0) == 0]
    assert first.index(Interim) < first.index(Final) < first.index(Refined) < first.index(Adapted)
    assert [event.kind for event in events if isinstance(event, SpeechEvent)][:2] == ["begin", "end"]
    finals = [event for event in events if isinstance(event, Final)]
    refined = [event for event in events if isinstance(event, Refined)]
    assert [event.index for event in finals] == [event.index for event in refined] == [0, 1]
    assert all(a.end <= b.start for a, b in zip(finals, finals[1:], strict=False))
    assert all(event.start <= word.start <= word.end <= event.end + 0.1 for event in finals for word in event.words)
    assert refined[0].entropy_after != refined[0].entropy_before and refined[0].steps == 1


def test_a_file_is_transcribed_as_its_sound(client, speech, tmp_path):
    write(tmp_path / "speech.wav", speech)
    found = client.transcribe(tmp_path / "speech.wav", endpointing="external", adapt="suta", settings={"steps": 1})
    (spoken,) = found.utterances
    assert found.text == spoken.refined and found.closed.utterances == 1
    assert spoken.final == client.transcribe(speech, endpointing="external").text
    assert spoken.end == pytest.approx(speech.duration, abs=1e-3) and spoken.events[0].kind == "stepped"


def test_commands_stand_between_sounds(client, speech):
    audio = [speech, Control.FINALIZE, Control.FREEZE, speech, Control.FINALIZE, Control.RESET, Control.KEEPALIVE, Control.UNFREEZE]
    found = client.transcribe(audio, adapt="dsuta", settings={"fast_steps": 1}, endpointing="external")
    assert [spoken.refined is None for spoken in found.utterances] == [False, True]
    assert found.utterances[1].events[0].reason == "frozen" and found.closed.resets == 1


def test_leaving_early_ends_the_stream_and_the_client_goes_on(client, speech):
    events = list(islice(client.stream([speech] * 20, interim=0.1, endpointing="external"), 2))
    assert isinstance(events[0], Opened)
    assert client.transcribe(speech).closed.utterances == 1


def test_real_time_takes_as_long_as_the_sound(client):
    sound = Waveform(np.zeros(8_000, np.float32), 16_000)
    began = time.monotonic()
    client.transcribe(sound, realtime=True)
    assert time.monotonic() - began >= 0.5


def test_other_rates_come_through(client):
    tone = np.sin(np.arange(96_000) / 30).astype(np.float32) / 2
    for rate in (8_000, 44_100, 96_000):
        closed = client.transcribe(Waveform(tone[:rate], rate), endpointing="external").closed
        assert closed.audio == pytest.approx(1.0, abs=1e-3)


def test_an_empty_stream_closes(client):
    assert client.transcribe([]).utterances == ()


def test_what_the_server_refuses_is_an_input_error_with_its_words(client, speech):
    with pytest.raises(InputError, match="unknown method 'dsutta'; did you mean 'dsuta'"):
        client.transcribe(speech, adapt="dsutta")
    with pytest.raises(InputError, match="endpointing 'loud' is unknown"):
        client.transcribe(speech, endpointing="loud")
    with pytest.raises(InputError, match="takes Waveform and Control, not str"):
        client.transcribe([speech, "more"])
    with pytest.raises(ZeroDivisionError):
        client.transcribe(speech if n < 2 else 1 / 0 for n in range(3))


def test_nobody_answering_is_one_clear_line(nobody):
    with pytest.raises(InputError, match=f"no server answers at {nobody}; start one with"), Client(nobody, timeout=0.3):
        pass


def test_a_failure_of_the_server_is_no_input_error(client, monkeypatch):
    monkeypatch.setattr("asrlife.client.requests.CHUNK", 1.0)  # larger chunks than this server takes
    with pytest.raises(ServerError, match="RESOURCE_EXHAUSTED: audio.content: 32000 bytes"):
        client.transcribe(Waveform(np.zeros(48_000, np.float32), 16_000))


async def test_the_asynchronous_client_says_the_same(address, speech):
    async def sounds():
        yield speech
        yield Control.FINALIZE
        yield speech

    with Client(address) as client:
        expected = client.transcribe([speech, Control.FINALIZE, speech], endpointing="external")
    async with AsyncClient(address) as client:
        assert "dsuta" in (await client.info()).methods
        found = await client.transcribe(sounds(), endpointing="external")
        assert [spoken.final for spoken in found.utterances] == [spoken.final for spoken in expected.utterances]
        again = await client.transcribe([speech, Control.FINALIZE, speech], endpointing="external", realtime=True)
        assert again.text == found.text


async def test_the_asynchronous_client_keeps_the_words_of_a_refusal(address, speech):
    async def broken():
        yield speech
        raise ZeroDivisionError

    async with AsyncClient(address) as client:
        for _ in range(10):  # grpc.aio alone loses most of them
            with pytest.raises(InputError, match="did you mean 'dsuta'"):
                await client.transcribe([speech] * 3, adapt="dsutta")
        with pytest.raises(ZeroDivisionError):
            await client.transcribe(broken())


async def test_the_asynchronous_client_says_when_nobody_answers(nobody):
    with pytest.raises(InputError, match="no server answers"):
        await AsyncClient(nobody, timeout=0.3).transcribe([])


def test_when_told_nothing_the_servers_method_stands(speech, running):
    """A server that is set up with a method gives it to a client that names none, and takes it away where "none" is named."""
    with running({"adaptation.method": "suta", "adaptation.settings": {"steps": 1}}) as address, Client(address) as client:
        opened, *_ = client.stream(speech, endpointing="external")
        assert opened.method == "suta" and opened.settings["steps"] == "1"
        assert client.transcribe(speech, endpointing="external").utterances[0].refined is not None
        assert client.transcribe(speech, endpointing="external", adapt="none").utterances[0].refined is None


def test_one_call_gives_the_words_of_the_stream(client, speech):
    found, streamed = (client.transcribe(speech, unary=unary, endpointing="external") for unary in (True, False))
    assert found.text == streamed.text and found.closed.state_digest == streamed.closed.state_digest
    adapted = client.transcribe(speech, unary=True, adapt="suta", settings={"steps": 1}, endpointing="external")
    assert adapted.utterances[0].refined is not None
    with pytest.raises(InputError, match="dsuta carries on what it learns"):
        client.transcribe(speech, unary=True, adapt="dsuta")
    with pytest.raises(InputError, match="one call takes sound alone"):
        client.transcribe([speech, Control.FREEZE], unary=True)


async def test_one_call_of_the_asynchronous_client(address, speech):
    async def sounds():
        yield speech

    async with AsyncClient(address) as client:
        found = await client.transcribe(sounds(), unary=True, endpointing="external")
        assert found.text == (await client.transcribe(speech, endpointing="external")).text
        with pytest.raises(InputError, match="did you mean 'dsuta'"):
            await client.transcribe(speech, unary=True, adapt="dsutta")


def test_alternatives_cursors_and_stable_beginnings_are_values(client, speech):
    # in real time: of sound that comes at once a server may leave interim results out
    given = {"endpointing": "external", "interim": 0.3, "alternatives": 3, "cursors": True, "adapt": "none", "realtime": True}
    events = list(client.stream([speech] * 2, **given))
    (final,) = [event for event in events if isinstance(event, Final)]
    assert len({final.text, *final.others}) == 3
    last = [event for event in events if isinstance(event, Cursors)][-1]
    assert last.received == last.final == pytest.approx(2 * speech.duration, abs=0.01) and last.backlog == 0
    promised = ""
    for event in events:
        if isinstance(event, Interim):
            assert event.text.startswith(promised)
            promised = event.text[: event.stable]
    assert promised


def test_a_microphone_is_a_stream_of_pieces_until_it_is_stopped(monkeypatch):
    stop = threading.Event()

    class Source:
        def __init__(self, **options):
            self.options = options

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, size):
            stop.set()
            return np.full((size, 1), 0.25, np.float32), False

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Source, PortAudioError=RuntimeError))
    (piece,) = microphone(stop)
    assert len(piece.samples) == 1600 and piece.samples[0] == 0.25


def test_without_sounddevice_or_a_device_the_fix_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InputError, match=r"pip install 'asrlife\[microphone\]'"):
        next(microphone(threading.Event()))

    def absent(**_):
        raise RuntimeError("no default input device")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=absent, PortAudioError=RuntimeError))
    with pytest.raises(InputError, match="no microphone can be opened"):
        next(microphone(threading.Event()))
