from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
import torch

from asrlife.errors import InputError
from asrlife.methods.online.method import Event
from asrlife.methods.online.state import State
from asrlife.text.hypothesis import Hypothesis, Word
from asrlife.v1 import asrlife_pb2 as pb
from asrlife.v1 import asrlife_pb2_grpc
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server


def _text(samples: np.ndarray) -> str:
    return f"{len(samples)} {zlib.crc32(samples.tobytes())}"


@dataclass
class FakeModel:
    """Says how long the audio is and which bits it has."""

    name: str = "fake"
    rate: int = 16_000
    card: dict[str, Any] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset({"emissions"})
    heard: list[int] = field(default_factory=list)
    tail: str = ""

    def fingerprint(self) -> str:
        return "fake-weights"

    def twin(self) -> FakeModel:
        return self

    def transcribe(self, waveforms: list[Any], batch_size: int = 8) -> list[Hypothesis]:
        self.heard += [len(waveform.samples) for waveform in waveforms]
        return [Hypothesis(_text(w.samples) + self.tail, (1,), (Word("w", 0.0, w.duration, 0.5),), -0.5) for w in waveforms]

    def alternatives(self, waveform: Any, count: int) -> list[Hypothesis]:
        (best,) = self.transcribe([waveform])
        return [replace(best, text=f"{best.text} {n}", score=-0.5 - n) for n in range(count)]


@dataclass(frozen=True)
class FakeMethod:
    """Remembers the bits of every utterance and moves its weights by `gain`; "alone" does neither. `hook` runs inside the step."""

    files: ClassVar[frozenset[str]] = frozenset({"book"})
    name: str
    gain: float = 1.0
    book: str = ""
    max_latency_ms: float | None = None
    hook: Callable[[], None] | None = None

    def start(self, model: FakeModel) -> State:
        if self.name != "count":
            return State(model.fingerprint())
        return State(model.fingerprint(), ("bias",), {"weights": torch.zeros(4)}, {"seen": []})

    def step(self, model: FakeModel, state: State, utterance: Any) -> tuple[Hypothesis, State, tuple[Event, ...]]:
        if self.hook:
            self.hook()
        said = _text(utterance.waveform(16_000).samples)
        seen, new = state.record.get("seen", []), state
        if state.names:  # "alone" starts anew with every utterance
            new = state.updated({"weights": state["weights"] + self.gain / 2}, seen=[*seen, said])  # further by `gain` in all
        detail = {"steps": 2, "loss_before": 1.0, "loss_after": 0.5, "entropy_before": 2.0, "entropy_after": 1.0, "before": said}
        return Hypothesis(f"{said} after {len(seen)}", (1,), (), -0.1), new, (Event("stepped", detail),)


@dataclass(frozen=True)
class Plain:
    """No adaptation."""

    name: str

    def start(self, model: FakeModel) -> State:
        return State(model.fingerprint())


@dataclass
class Fakes:
    model: FakeModel = field(default_factory=FakeModel)
    hook: Callable[[], None] | None = None

    def make(self, name: str, settings: Any = None, model: Any = None) -> FakeMethod:
        if name not in ("none", "count", "alone"):
            raise InputError(f"unknown method {name!r}; did you mean 'count'?")
        if set(settings or {}) - {"gain", "book", "max_latency_ms"}:
            raise InputError(f"{name}: unknown setting {min(set(settings) - {'gain'})!r}; did you mean 'gain'?")
        try:
            typed = {key: value if key == "book" else float(value) for key, value in (settings or {}).items()}
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
        method = FakeMethod(name, hook=self.hook)
        return Plain(name) if name == "none" else replace(method, **typed)


class Talk:
    """One raw stream; `ended` is the first status that came (grpc/grpc#36066 overwrites it after a failed write)."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.status: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._keep)

    def _keep(self, call: Any) -> None:
        found = []
        for coroutine in (call.code(), call.details()):
            try:
                coroutine.send(None)
            except StopIteration as end:
                found.append(end.value)
        if not self.status.done():
            self.status.set_result((found[0].name, found[1] or ""))

    async def send(self, **member: Any) -> None:
        await self.call.write(pb.StreamingRequest(**member))

    async def say(self, samples: np.ndarray, chunk: int = 1600) -> None:
        for start in range(0, len(samples), chunk):
            await self.send(audio=pb.Audio(content=samples[start : start + chunk].astype("<i2").tobytes()))

    async def next(self, kind: str) -> Any:
        while True:
            response = await self._read()
            assert response is not grpc.aio.EOF, f"no {kind}: {await self.ended()}"
            if response.WhichOneof("response") == kind:
                return getattr(response, kind)

    async def rest(self) -> list[pb.StreamingResponse]:
        responses = []
        while (response := await self._read()) is not grpc.aio.EOF:
            responses.append(response)
        return responses

    async def _read(self) -> Any:
        try:
            return await asyncio.wait_for(self.call.read(), 20)
        except grpc.aio.AioRpcError:
            return grpc.aio.EOF

    async def ended(self) -> tuple[str, str]:
        return await asyncio.wait_for(self.status, 20)


@dataclass
class Loopback:
    server: Server
    channel: grpc.aio.Channel
    fakes: Fakes
    metadata: tuple[tuple[str, str], ...] = ()  # of every stream

    @property
    def stub(self) -> Any:
        return asrlife_pb2_grpc.SpeechAdaptStub(self.channel)

    def talk(self) -> Talk:
        return Talk(self.stub.StreamingRecognize(metadata=self.metadata))

    async def opened(self, **fields: Any) -> Talk:
        talk = self.talk()
        await talk.send(config=config(**fields))
        await talk.next("opened")
        return talk

    async def until_gone(self, stream: Any) -> None:
        while stream in self.server.service.streams.values():
            await asyncio.sleep(0.01)

    async def until_idle(self) -> None:
        while self.server.service.streams:
            await asyncio.sleep(0.01)


def config(**fields: Any) -> pb.StreamingConfig:
    asked: dict[str, Any] = {
        "encoding": pb.PCM16,
        "sample_rate_hz": 16_000,
        "endpointing": pb.Endpointing(mode=pb.Endpointing.EXTERNAL),
        "adaptation": pb.Adaptation(method="count"),
    }
    return pb.StreamingConfig(**{**asked, **fields})


@pytest.fixture
def asked() -> Callable[..., pb.StreamingConfig]:
    return config


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def noise() -> Callable[[int, int], np.ndarray]:
    """int16 samples from a seed."""
    return lambda seed, n: np.random.default_rng(seed).integers(-9000, 9000, n).astype(np.int16)


@pytest.fixture
async def serving(fakes: Fakes) -> AsyncIterator[Callable[..., Any]]:
    """Starts servers with the fake model on free ports, and stops them."""
    running: list[Loopback] = []

    async def start(store: Any = None, **settings: Any) -> Loopback:
        usual = {"port": 0, "model": "fake", "state.backend": "memory"}
        server = Server(ServerConfig.read(None, {**usual, **settings}), fakes.model, fakes.make, store)
        await server.start()
        running.append(Loopback(server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"), fakes))
        return running[-1]

    yield start
    for loopback in running:
        await loopback.channel.close()
        await loopback.server.stop(0)


@pytest.fixture
def undisturbed(noise):
    """Another stream that is in the middle of an utterance all the while, and ends with what it would have had alone.

    `sound` is what it says before and after; `fields` are those of its config.
    """

    async def alone(loopback, sound, fields):
        talk = await loopback.opened(**fields)
        await talk.say(sound[0])
        return talk

    async def ended(talk, sound):
        await talk.say(sound[1])
        await talk.send(control=pb.FINISH)
        rest = await talk.rest()
        assert await talk.ended() == ("OK", "")
        return [response for response in rest if not response.HasField("closed")], rest[-1].closed.state_digest

    @asynccontextmanager
    async def around(loopback, sound=(noise(90, 1600), noise(91, 1600)), **fields):
        expected = await ended(await alone(loopback, sound, fields), sound)
        other = await alone(loopback, sound, fields)
        yield
        assert await ended(other, sound) == expected

    return around


@pytest.fixture
async def beside(undisturbed):
    """`undisturbed` for a whole test: starts another stream now, and looks at the test's end whether it went on as it would have alone."""
    async with AsyncExitStack() as others:

        async def start(loopback, **fields):
            await others.enter_async_context(undisturbed(loopback, **fields))

        yield start
