"""A server that serves a model moved by a delta."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import pytest
import torch

import asrlife
from asrlife.client import Client
from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.errors import InputError
from asrlife_server.checking import findings
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The file of a delta under which embedded:ctc hears nothing but "a"."""
    model = asrlife.load("embedded:ctc")
    bias = torch.zeros_like(model.module.lm_head.bias)
    bias[model.vocabulary.ids["a"]] = 100.0
    path = tmp_path_factory.mktemp("delta") / "a.safetensors"
    file.save(Delta(model.fingerprint(), {"lm_head.bias": Dense(bias)}), path)
    return path


@contextmanager
def serving(**settings):
    """A real server on a real socket, in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def started():
        server = Server(ServerConfig.read(None, {"port": 0, "state.backend": "memory", **settings}))
        await server.start()
        return server

    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(started(), loop).result(120)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)


def heard(address, sound):
    with Client(address) as client:
        return client.transcribe(sound, adapt="none", unary=True).text


def test_the_served_words_are_those_of_the_moved_model(moved):
    sound = asrlife.speak("turn on the kitchen light", "en-us+f3")
    with serving() as address:
        plain = heard(address, sound)
    with serving(delta=str(moved)) as address:
        changed = heard(address, sound)
    with serving(delta=str(moved), delta_scale=0.0) as address:
        assert heard(address, sound) == plain
    assert "kitchen" in plain and set(changed) == {"a"}
    assert changed == asrlife.load("embedded:ctc", delta=moved).transcribe([sound])[0].text


def test_a_domain_is_served_by_its_name(moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file_ in (moved, moved.with_suffix(".json")):
        (tmp_path / "domains" / "ward").mkdir(parents=True, exist_ok=True)
        (tmp_path / "domains" / "ward" / f"delta{file_.suffix}").write_bytes(file_.read_bytes())
    (tmp_path / "server.yaml").write_text("delta: ward\n")
    config = ServerConfig.read(tmp_path / "server.yaml", {"state.backend": "memory"})
    assert not [each for each in findings(config) if each.name == "model" and each.fault]
    sound = asrlife.speak("turn on the kitchen light", "en-us+f3")
    with serving(delta="ward") as address:
        assert set(heard(address, sound)) == {"a"}
    found = {each.name: each.fault for each in findings(ServerConfig.read(None, {"delta": "wart", "state.backend": "memory"}))}
    assert found["model"] == "delta wart: no such file, and no domain of this name in domains/; there: ward"


def test_a_delta_of_another_model_is_refused_at_the_start_and_by_check(moved, tmp_path):
    with pytest.raises(InputError, match=r"delta .*a\.safetensors on embedded:ctc-tts: the delta was made for base"):
        Server(ServerConfig.read(None, {"model": "embedded:ctc-tts", "delta": str(moved), "state.backend": "memory"}))
    for settings, words in (
        ({"model": "embedded:ctc-tts", "delta": str(moved)}, "the delta was made for base"),
        ({"delta": str(tmp_path / "none.safetensors")}, "none.json cannot be read"),
    ):
        found = {each.name: each.fault for each in findings(ServerConfig.read(None, {**settings, "state.backend": "memory"}))}
        assert words in found["model"]
    with pytest.raises(InputError, match="delta_scale: "):
        ServerConfig.read(None, {"delta_scale": float("inf")})


def test_the_setting_has_one_name_everywhere(tmp_path, moved):
    path = tmp_path / "server.yaml"
    path.write_text(f"delta: {moved}\ndelta_scale: 0.5\n")
    config = ServerConfig.read(path, None, {"ASRLIFE_DELTA_SCALE": "0.25"})
    assert (config.delta, config.delta_scale) == (moved, 0.25)
