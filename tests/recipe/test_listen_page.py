"""The listening page in a real browser: it plays, finds, and asks nobody else."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from asrlife.recipe.aloud import Wish, synthesise
from asrlife.recipe.speech import Diversity
from tests.server.browser import program, tab

pytest.importorskip("aiohttp", reason="no aiohttp is here (pip install 'asrlife[web]')")
pytestmark = pytest.mark.slow


async def test_the_page_plays_and_finds(tmp_path: Path) -> None:
    program()
    (tmp_path / "a & b.txt").write_text("open the door\nshut the window\nПривет\n")
    wish = Wish(tmp_path / "a & b.txt", tmp_path / "out & about", ("en-us+f3",), diversity=Diversity(clips=2))
    made = synthesise(wish, lambda _, __: nullcontext(lambda: None))
    async with tab(tmp_path / "profile", "--autoplay-policy=no-user-gesture-required") as page:
        await page.open(made.page.as_uri())
        assert await page.value("document.querySelectorAll('audio').length") == 4
        await page.value("document.querySelector('audio').play()")
        await page.until("document.querySelector('audio').currentTime > 0.05")
        assert await page.value("document.querySelector('audio').duration") == pytest.approx(1.0, abs=0.8)
        await page.value("document.querySelectorAll('audio')[1].play()")
        await page.until("document.querySelector('audio').paused")
        await page.choose("#find", "window F3")
        assert await page.value("document.getElementById('shown').textContent") == "2 of 4"
        assert await page.value("[...document.querySelectorAll('ul.clips li')].filter((e) => e.offsetHeight > 0).length") == 2
        assert "Cyrillic letters" in await page.value("document.body.innerText")
        assert page.complaints == [] and all(address.startswith(("file:", "data:")) for address in page.addresses)
