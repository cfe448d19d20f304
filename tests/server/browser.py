"""A real Chromium without a window, driven over its DevTools protocol, where its program is installed."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
]
_LONG = 120.0  # s


def program() -> str:
    """The browser's program; skips the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    return found or pytest.skip("no chromium is here (apt-get install chromium)")


class Tab:
    """One page; keeps what it complained about and what it asked for."""

    def __init__(self, socket: Any) -> None:
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        self._socket = socket
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" in found:
                self._answers.pop(found["id"]).set_result(found)
            else:
                self._note(found["method"], found["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])
        if method == "Network.webSocketCreated":
            self.addresses.append(params["url"])

    async def send(self, method: str, **params: Any) -> Any:
        number = len(self._answers) + 1 + getattr(self, "_sent", 0)
        self._sent = number
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        found = await asyncio.wait_for(answer, _LONG)
        assert "error" not in found, (method, found)
        return found["result"]

    async def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1) -> None:
        for domain in ("Runtime", "Log", "Network", "Page", "DOM"):
            await self.send(f"{domain}.enable")
        await self.size(width, height, dark, scale)
        await self.send("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def size(self, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def value(self, expression: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The expression's value, once it is true."""

        async def asked() -> Any:
            while not (found := await self.value(expression)):
                await asyncio.sleep(0.05)
            return found

        try:
            return await asyncio.wait_for(asked(), _LONG)
        except (asyncio.TimeoutError, TimeoutError):
            raise AssertionError(f"never: {expression}; {await self.value('document.body.innerText')}; {self.complaints}") from None

    async def click(self, selector: str) -> None:
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def choose(self, selector: str, value: str) -> None:
        told = "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {bubbles: true}))"
        await self.value(f"{{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)}; {told} }}")

    async def upload(self, selector: str, path: Path) -> None:
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    async def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot", format="png"))["data"]))

    def close(self) -> None:
        self._listening.cancel()


@asynccontextmanager
async def tab(folder: Path, *options: str) -> AsyncIterator[Tab]:
    """A browser with one empty page, its profile in `folder`."""
    import aiohttp

    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    command = [program(), *_QUIET, *options, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    process = await asyncio.create_subprocess_exec(*command, **quiet)
    try:
        port = await asyncio.wait_for(_port(folder / "DevToolsActivePort", process), _LONG)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                page = next(each for each in await answer.json() if each["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                found = Tab(socket)
                yield found
                found.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    while not (file.is_file() and file.read_text().strip()):
        assert process.returncode is None, f"the browser ended with {process.returncode}"
        await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])
