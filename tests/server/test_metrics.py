"""What Prometheus would read, over HTTP, after real streams."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import asrlife
from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import metrics
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

KEY = pb.Adaptation(method="count", adaptation_key="anna", persist=pb.Adaptation.KEY)


async def scraped(loopback):
    """Samples by their name and labels, as in asrlife_calls_total{code=ok}."""
    url = f"http://127.0.0.1:{loopback.server.operations.metrics.port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
            found[sample.name.removeprefix("asrlife_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


async def counted(loopback):
    """A scrape without what is zero, and without what depends on time."""
    return {
        name: value
        for name, value in (await scraped(loopback)).items()
        if value and not re.search(r"_bucket|_created|_sum|^(compute|event_loop|build)|python|^batch_wait", name)
    }


async def utterances(loopback, noise, count, **fields):
    talk = await loopback.opened(**fields)
    for seed in range(count):
        await talk.say(noise(seed, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.FINISH)
    await talk.rest()
    assert (await talk.ended())[0] == "OK"


async def until_over(loopback, calls):
    """The server says that a call is over a moment after its client knows."""
    while sum(value for name, value in (await scraped(loopback)).items() if name.startswith("calls_total")) < calls:
        await asyncio.sleep(0.01)


async def test_counts_after_streams_are_exact(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    await utterances(loopback, noise, 3)
    await utterances(loopback, noise, 1, adaptation=pb.Adaptation(method="none"))
    await until_over(loopback, 2)
    found = await counted(loopback)
    expected = {
        "streams_opened_total": 2, "calls_total{code=ok}": 2, "audio_seconds_total": pytest.approx(0.4), "final_seconds_count": 4,
        "refinement_seconds_count": 3, "adaptation_steps_total": 6, "real_time_factor_count{work=recognition}": 2,
        "real_time_factor_count{work=adaptation}": 2, "batch_size_count{work=final}": 4, "batch_size_count{work=adapt}": 3,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert not [name for name in found if re.match("streams_rejected|adaptation_(skips|resets)|partial|store|backlog|streams_active", name)]


async def test_what_is_so_now_is_read_at_each_scrape(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    talk = await loopback.opened()
    await talk.say(noise(1, 1600))
    await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.next("adaptation_event")
    found = await counted(loopback)
    state = next(iter(loopback.server.service.streams.values())).session.state
    assert found["streams_active"] == 1 and found["state_bytes{tier=streams}"] == state.size > 0
    await talk.send(control=pb.FINISH)
    await talk.rest()
    await loopback.until_idle()
    found = await counted(loopback)
    assert "streams_active" not in found and "state_bytes{tier=streams}" not in found


async def test_the_backlog_is_the_sound_that_waits_for_its_final(serving, noise, fakes):
    entered, go_on, transcribe = threading.Event(), threading.Event(), fakes.model.transcribe

    def held(waveforms, batch_size):
        entered.set()
        assert go_on.wait(20)
        return transcribe(waveforms)

    fakes.model.transcribe = held
    loopback = await serving(**{"metrics.port": 0})
    talk = await loopback.opened()
    await talk.say(noise(1, 3200))
    await talk.send(control=pb.FINISH)
    assert await asyncio.to_thread(entered.wait, 20)
    assert (await counted(loopback))["backlog_seconds"] == pytest.approx(0.2)
    go_on.set()
    await talk.rest()
    assert "backlog_seconds" not in await counted(loopback)


async def test_rejected_streams_are_counted_by_why(serving, noise, asked):
    loopback = await serving(**{"metrics.port": 0, "limits.streams": 1, "timeouts.first_message_s": 0.2})
    live = await loopback.opened()
    full = loopback.talk()
    await full.rest()
    assert (await full.ended())[0] == "RESOURCE_EXHAUSTED"
    await live.send(control=pb.FINISH)
    await live.rest()
    await loopback.until_idle()
    await until_over(loopback, 2)
    for wrong, code in (({"sample_rate_hz": 1}, "INVALID_ARGUMENT"), ({"model": "other"}, "NOT_FOUND")):
        talk = loopback.talk()
        await talk.send(config=asked(**wrong))
        await talk.rest()
        assert (await talk.ended())[0] == code
    silent = loopback.talk()
    await silent.rest()
    assert (await silent.ended())[0] == "DEADLINE_EXCEEDED"
    await until_over(loopback, 5)
    found = {name: value for name, value in (await counted(loopback)).items() if name.startswith(("streams_rejected", "streams_opened"))}
    reasons = ("resource_exhausted", "invalid_argument", "not_found", "deadline_exceeded")
    assert found == {"streams_opened_total": 1} | {f"streams_rejected_total{{reason={reason}}}": 1 for reason in reasons}


async def test_a_client_who_leaves_and_a_stream_that_fails_after_it_was_opened_are_calls_with_their_codes(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    leaving = await loopback.opened()
    leaving.call.cancel()
    await loopback.until_idle()
    late = await loopback.opened()
    await late.send(silence=pb.Silence(duration_ms=60_000))
    with suppress(grpc.aio.AioRpcError):
        await late.rest()
    await until_over(loopback, 2)
    found = await counted(loopback)
    assert found["calls_total{code=cancelled}"] == found["calls_total{code=resource_exhausted}"] == 1
    assert not [name for name in found if name.startswith("streams_rejected")]


async def test_skips_and_resets_are_counted_by_reason(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    talk = await loopback.opened()
    for control in (pb.FREEZE, pb.UNFREEZE):
        await talk.send(control=control)
        await talk.say(noise(1, 1600))
        await talk.send(control=pb.FINALIZE_UTTERANCE)
    await talk.send(control=pb.RESET_ADAPTATION)
    await talk.send(silence=pb.Silence(duration_ms=100))
    await talk.send(control=pb.FINISH)
    await talk.rest()
    await until_over(loopback, 1)
    found = {name: value for name, value in (await counted(loopback)).items() if name.startswith("adaptation")}
    assert found == {
        "adaptation_skips_total{reason=frozen}": 1, "adaptation_skips_total{reason=no speech}": 1,
        "adaptation_resets_total{reason=requested}": 1, "adaptation_steps_total": 2, "adaptation_drift_count": 1,
    }  # fmt: skip


async def test_what_the_store_did_is_counted(serving, noise):
    loopback = await serving(**{"metrics.port": 0, "state.resident_bytes": 0})
    await utterances(loopback, noise, 2, adaptation=KEY)
    await loopback.until_idle()
    await utterances(loopback, noise, 1, adaptation=KEY)
    await loopback.until_idle()
    found = {name: value for name, value in (await counted(loopback)).items() if name.startswith("store")}
    events = {"misses": 2, "restored": 1, "persisted": 3, "evicted": 2}
    assert found == {f"store_total{{event={name}}}": count for name, count in events.items()}


async def test_a_state_that_is_still_in_memory_is_a_hit(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    for _ in range(2):
        await utterances(loopback, noise, 1, adaptation=KEY)
        await loopback.until_idle()
    found = await counted(loopback)
    assert found["store_total{event=hits}"] == found["store_total{event=misses}"] == 1
    assert found["state_bytes{tier=memory}"] > 0


async def test_the_size_of_a_store_that_is_a_file_is_a_tier(serving, noise, tmp_path):
    loopback = await serving(**{"metrics.port": 0, "state.backend": "disk", "state.path": str(tmp_path / "state.sqlite")})
    await utterances(loopback, noise, 1, adaptation=KEY)
    assert (await counted(loopback))["state_bytes{tier=store}"] >= (tmp_path / "state.sqlite").stat().st_size > 0


async def test_interim_texts_are_timed_from_their_chunk(serving, noise):
    loopback = await serving(**{"metrics.port": 0})
    talk = await loopback.opened(interim=pb.Interim(enable=True, min_interval_ms=100))
    await talk.say(noise(1, 1600))
    assert not (await talk.next("result")).is_final
    found = await counted(loopback)
    assert found["partial_seconds_count"] == 1 and (await scraped(loopback))["partial_seconds_sum"] < 20
    await talk.send(control=pb.FINISH)
    await talk.rest()


async def test_the_lag_of_the_event_loop_is_measured(serving):
    loopback = await serving(**{"metrics.port": 0})
    while not (found := await scraped(loopback))["event_loop_lag_seconds_count"]:
        await asyncio.sleep(0.05)
    assert found["event_loop_lag_seconds_sum"] >= 0


async def test_no_label_says_whose_audio_it_was(serving, noise, asked):
    loopback = await serving(**{"metrics.port": 0})
    secrets = {"request_id": "the-request", "session_id": "the-session"}
    await utterances(loopback, noise, 2, adaptation=KEY, **secrets)
    heard = {f"{length}" for length in loopback.fakes.model.heard}
    url = f"http://127.0.0.1:{loopback.server.operations.metrics.port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
    assert heard and not [word for word in ("anna", "the-request", "the-session", "default", "fake") if word in text]
    known = {"reason", "code", "work", "event", "tier", "le", "version"}
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("asrlife")]
    assert {key for family in families for sample in family.samples for key in sample.labels} == known


def test_a_label_that_nobody_has_written_down_counts_as_other():
    rows = metrics.Metrics()
    rows.observe("adaptation_skips", 1.0, "anna said no")
    rows.observe("batch_size", 3.0, "anna")
    value = rows.registry.get_sample_value
    assert value("asrlife_adaptation_skips_total", {"reason": "other"}) == 1 and value("asrlife_batch_size_sum", {"work": "other"}) == 3


def test_every_reason_that_a_method_gives_is_written_down():
    source = "".join(path.read_text() for path in (Path(asrlife.__file__).parent / "methods" / "online").glob("*.py"))
    skips = set(re.findall(r"_?skipped\([^()]*?\"([a-z ]+)\"", source)) | set(
        re.findall(r"\"skipped\", \{\"reason\": \"([a-z ]+)\"", source)
    )
    resets = set(re.findall(r"\"reset\", \{\"reason\": \"([a-z ]+)\"", source)) | set(
        re.findall(r"_back\(state, own, \"([a-z]+)\"", source)
    )
    assert skips >= {"unsure", "diverged"} and resets >= {"oracle", "shift", "low entropy"}
    assert skips <= metrics.SKIPS and resets <= metrics.RESETS


async def test_two_servers_count_for_themselves_and_none_serves_metrics_unless_asked(serving, noise):
    first, second, third = await serving(**{"metrics.port": 0}), await serving(**{"metrics.port": 0}), await serving()
    await utterances(first, noise, 1)
    assert (await counted(first))["streams_opened_total"] == 1 and "streams_opened_total" not in await counted(second)
    assert third.server.operations.metrics.port is None


async def test_a_busy_metrics_port_is_one_clear_line_and_leaves_nothing_running(serving, fakes):
    loopback = await serving(**{"metrics.port": 0})
    busy = loopback.server.operations.metrics.port
    config = ServerConfig.read(None, {"port": 0, "model": "fake", "state.backend": "memory", "metrics.port": busy})
    with pytest.raises(InputError, match=rf"metrics cannot be served on 127\.0\.0\.1:{busy} .*choose another metrics\.port") as error:
        await Server(config, fakes.model, fakes.make).start()
    assert "\n" not in str(error.value)


async def test_metrics_stop_with_the_server(serving):
    loopback = await serving(**{"metrics.port": 0})
    url = f"http://127.0.0.1:{loopback.server.operations.metrics.port}/metrics"
    await loopback.server.stop(0)
    with pytest.raises(OSError):
        await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
