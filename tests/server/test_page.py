"""The page in a real browser: what is said there appears, what is learnt is drawn, and nothing is asked of anybody else."""

from __future__ import annotations

import numpy as np
import pytest

import asrlife
from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from tests.server.browser import program, tab
from tests.server.callers import tokens

pytest.importorskip("aiohttp", reason="no aiohttp is here (pip install 'asrlife[web]')")
pytestmark = pytest.mark.slow
OWN = {"web.enabled": True, "web.port": 0}
SAID = ["turn on the kitchen light", "what time is it", "turn off the radio"] * 2
READY = "!document.getElementById('start').disabled && document.getElementById('start').textContent === 'Start'"
STATUS = "document.getElementById('status-text').textContent"
ALERT = "document.getElementById('alert').hidden ? '' : document.getElementById('alert-text').textContent"


@pytest.fixture(autouse=True)
def chromium():
    program()


@pytest.fixture
def sound(tmp_path):
    """Some sentences in pink noise, with pauses."""
    spoken = [np.concatenate([speak(text).resampled(16_000).samples, np.zeros(16_000, np.float32)]) for text in SAID]
    clean = Waveform(np.concatenate([np.zeros(8000, np.float32), *spoken]), 16_000)
    noisy = asrlife.Condition("pink", 15.0, 1).apply(asrlife.Utterance("said", clean)).waveform()
    asrlife.write(tmp_path / "said.wav", noisy)
    return tmp_path / "said.wav"


@pytest.fixture
async def learning(tmp_path):
    """A server with a model that learns."""
    settings = {"port": 0, "state.backend": "memory", "model": "embedded:ctc", **OWN}
    server = Server(ServerConfig.read(None, settings))
    await server.start()
    yield server
    await server.stop(0)


async def choose_file(page, sound, method="dsuta"):
    await page.click("input[value=file]")
    await page.upload("#file", sound)
    await page.choose("#method", method)


def own(page, site):
    """Whether the page asked nobody but its own server, and had nothing to complain of."""
    assert page.complaints == []
    assert page.addresses and all(address.split("://")[1].startswith(f"127.0.0.1:{site.port}/") for address in page.addresses)


async def test_a_file_is_heard_refined_drawn_reset_and_frozen(learning, sound, tmp_path):
    async with tab(tmp_path / "profile") as page:
        await page.open(learning.site.address)
        await page.until(READY)
        assert await page.value("document.querySelectorAll('#method option').length") > 10
        await choose_file(page, sound)
        await page.click("#settings summary")
        await page.choose("#settings input[name=fast_steps]", "3")
        await page.click("#start")
        await page.until("document.querySelectorAll('#chart .after').length === 1")
        assert "3 steps" in await page.value("document.querySelector('.outcome').textContent")
        await page.click("#reset")
        await page.until("document.getElementById('n-resets').textContent === '1'")
        await page.click("#freeze")
        await page.until(f"{STATUS} === 'Finished'")
        text = await page.value("document.getElementById('transcript').innerText")
        drawn = "[...document.querySelectorAll('#chart [class]')].map((each) => each.getAttribute('class'))"
        shapes, label = await page.value(drawn), await page.value("document.getElementById('chart').getAttribute('aria-label')")
        rows = await page.value("[...document.querySelectorAll('#rows tr')].map((row) => row.textContent)")
        assert await page.value(ALERT) == ""
        own(page, learning.site)
    assert text.count("entropy") >= 1 and "heard" in text and "frozen" in text
    assert "reset" in shapes and "skipped" in shapes and "1 resets" in label
    assert len(rows) >= 3 and any("reset: requested" in row for row in rows) and "no step: frozen" in rows[-1]


async def test_a_microphone_is_heard_and_refined(learning, sound, tmp_path):
    device = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
    ]  # again and again
    async with tab(tmp_path / "profile", *device) as page:
        await page.open(learning.site.address, 360, 800, dark=True)
        await page.until(READY)
        await page.choose("#method", "suta")
        await page.click("#start")
        await page.until(f"{STATUS} === 'Listening'")
        await page.until("Number(document.getElementById('level').value) > 0.02")
        await page.until("document.querySelectorAll('#transcript .guess').length > 0")  # while somebody speaks
        await page.until("document.querySelectorAll('#chart .after').length >= 2")
        assert await page.value("document.documentElement.scrollWidth <= innerWidth")
        await page.click("#start")
        await page.until(f"{STATUS} === 'Finished'")
        assert "turn" in await page.value("document.getElementById('transcript').innerText")
        assert "nothing is carried" in await page.value("document.getElementById('chart').textContent")
        own(page, learning.site)
    assert not learning.service.streams


async def test_errors_can_be_read_and_the_page_goes_on(serving, sound, tmp_path):
    loopback = await serving(**OWN, **{"limits.streams": 1, "adaptation.method": "none"})
    page_file = tmp_path / "text.txt"
    page_file.write_text("no sound")
    async with tab(tmp_path / "profile") as page:
        await page.open(loopback.server.site.address)
        await page.until(READY)
        await page.click("input[value=file]")
        await page.click("#start")
        assert await page.until(ALERT) == "Choose a sound file first."
        await page.upload("#file", page_file)
        await page.click("#start")
        assert "text.txt is no sound that this browser can read" in await page.until(f"({ALERT}).includes('text.txt') ? {ALERT} : ''")
        await page.upload("#file", sound)
        await page.click("#at-once")
        talk = await loopback.opened()
        await page.click("#start")
        assert "1 streams are open" in await page.until(f"({ALERT}).includes('RESOURCE_EXHAUSTED') ? {ALERT} : ''")
        await talk.send(control=pb.FINISH)
        await talk.rest()
        await page.until(READY)
        await page.click("#start")
        await page.until(f"{STATUS} === 'Finished'")
        assert await page.value("document.querySelectorAll('#transcript .only').length") >= 3
        assert await page.value(ALERT) == ""


async def test_a_token_is_asked_for_and_a_wrong_one_is_said(serving, tmp_path):
    loopback = await serving(**OWN, **{"security.tokens": tokens(tmp_path / "tokens", secret="acme")})
    async with tab(tmp_path / "profile") as page:
        await page.open(loopback.server.site.address)
        await page.until("!document.getElementById('token-row').hidden")
        for token in ("wrong", "secret"):
            await page.choose("#token", token)
            await page.click("#token-use")
            await page.until(READY if token == "secret" else ALERT)
        assert await page.value("document.getElementById('token-row').hidden")


async def test_every_width_and_both_schemes_fit_and_everything_has_a_name(serving, tmp_path):
    loopback = await serving(**OWN)
    unnamed = "[...document.querySelectorAll('input, select, button, meter')].filter((e) => !(e.labels?.length || e.textContent.trim()))"
    async with tab(tmp_path / "profile") as page:
        await page.open(loopback.server.site.address)
        await page.until(READY)
        for width in (360, 560, 720, 940, 1280, 1600):
            for dark in (False, True):
                await page.size(width, 900, dark)
                assert await page.value("document.documentElement.scrollWidth") <= width
        assert await page.value(f"{unnamed}.length") == 0
        assert await page.value("document.documentElement.lang") == "en"
        own(page, loopback.server.site)
