"""NVIDIA Riva's recognition service on top of our own, so that clients written for Riva stream here unchanged.

What Riva has no words for is asked for in `custom_configuration` (asrlife_server.riva_config). Riva knows no refinement: a final is by
default the adapted text, which comes when the step is done; `finals: plain` sends the unadapted text at once. Warnings, cursors and
adaptation events have no place in Riva's answers and are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import unary
from asrlife_server.config import Limits
from asrlife_server.fields import check
from asrlife_server.opening import language
from asrlife_server.refusal import Refusal, invalid
from asrlife_server.riva_config import HONOURED, encoding, names, translated
from asrlife_server.service import Service
from asrlife_server.stream import Write

_MOMENT = 0.05  # s after which a client that went away is known not to have half-closed
_PLACE = "streaming_config."  # of a stream's config, for refusals
_HEAD = 12  # bytes that tell a WAV or FLAC file from samples


def protocol() -> tuple[Any, Any]:
    """The modules of Riva's messages and of its service; raises InputError where NVIDIA's package is absent."""
    try:
        from riva.client.proto import riva_asr_pb2, riva_asr_pb2_grpc
    except ImportError as error:
        raise InputError("riva: the server needs NVIDIA's package for it: pip install 'asrlife[riva]'") from error
    return riva_asr_pb2, riva_asr_pb2_grpc


def add_to(server: grpc.aio.Server, service: Service, model: Any, limits: Limits) -> str:
    """Put Riva's service on a server and return its name; raises InputError where the package with its messages is absent."""
    messages, calls = protocol()
    calls.add_RivaSpeechRecognitionServicer_to_server(Riva(service, model, limits, messages), server)
    return str(messages.DESCRIPTOR.services_by_name["RivaSpeechRecognition"].full_name)


class Riva:
    """Answers Riva's three calls; `messages` is the module of Riva's protocol."""

    def __init__(self, service: Service, model: Any, limits: Limits, messages: Any) -> None:
        self._service = service
        self._model = model
        self._limits = limits
        self._messages = messages

    async def StreamingRecognize(self, request_iterator: AsyncIterator[Any], context: Any) -> None:
        """Riva's stream: its half-close is the clean end."""
        answers = Answers(self._messages, context.write)
        requests = self._requests(request_iterator, answers, context)
        await self._service.answer(context, requests, answers.write, names=names(_PLACE))

    async def Recognize(self, request: Any, context: Any) -> Any:
        """One recording; adaptation is none, or a method that starts anew with every utterance."""
        gathered = unary.Gathered()
        await self._service.answer(
            context, self._whole(request), gathered.write, unary.longest(self._limits), names={**names(), "audio.content": "audio"}
        )
        found, config = gathered.response, gathered.response.opened.config
        results = [self._result(result, config) for result in found.results]
        return self._messages.RecognizeResponse(results=results, id=request.id if request.HasField("id") else None)

    async def GetRivaSpeechRecognitionConfig(self, request: Any, context: Any) -> Any:
        """The model, once for streams and once for recordings, as Riva's clients look for it."""
        await self._service.caller(context)
        model = self._model
        if request.model_name not in ("", model.name):
            text = f"model_name: {request.model_name[:80]!r} is not served; this server has {model.name!r}"
            await context.abort(grpc.StatusCode.NOT_FOUND, text, Refusal("NOT_FOUND", text, field="model_name").metadata)
        told = {"language_code": language(model), "sample_rate": str(model.rate), "capabilities": ",".join(sorted(model.capabilities))}
        kinds = {"online": "True", "offline": "False"}
        config = self._messages.RivaSpeechRecognitionConfigResponse.Config
        configs = [config(model_name=model.name, parameters={**told, "type": kind, "streaming": kinds[kind]}) for kind in kinds]
        return self._messages.RivaSpeechRecognitionConfigResponse(model_config=configs)

    async def _requests(self, incoming: AsyncIterator[Any], answers: Answers, context: Any) -> AsyncIterator[pb.StreamingRequest]:
        first = await anext(incoming, None)
        if first is None or first.WhichOneof("streaming_request") != "streaming_config":
            raise invalid("streaming_config", "the first message of a stream must be `streaming_config`")
        check(first, honoured=HONOURED)
        answers.id = first.id if first.HasField("id") else None
        asked, chunks = first.streaming_config, _sound(incoming)
        config = translated(asked.config, first.id.value, _PLACE, asked.interim_results)
        answers.eou_ms = config.endpointing.stop_eou_ms
        head = await _head(chunks)
        config.encoding = encoding(asked.config, head, _PLACE)
        yield pb.StreamingRequest(config=config)
        yield pb.StreamingRequest(audio=pb.Audio(content=head))
        async for chunk in chunks:
            yield pb.StreamingRequest(audio=pb.Audio(content=chunk))
        await asyncio.sleep(_MOMENT)  # a lost connection looks like a half-close at first
        if not context.cancelled():
            yield pb.StreamingRequest(control=pb.FINISH)

    async def _whole(self, request: Any) -> AsyncIterator[pb.StreamingRequest]:
        check(request, honoured=HONOURED)
        config = translated(request.config, request.id.value)
        config.encoding = encoding(request.config, request.audio[:_HEAD])
        async for each in unary.requests(pb.RecognizeRequest(config=config, audio=request.audio), self._limits):
            yield each

    def _result(self, result: pb.Result, config: pb.StreamingConfig) -> Any:
        return self._messages.SpeechRecognitionResult(**_common(result, config, self._messages))


class Answers:
    """Turns a stream's responses into Riva's; `eou_ms` is the silence behind which an utterance has probably ended."""

    def __init__(self, messages: Any, write: Write) -> None:
        self.id: Any = None
        self.eou_ms = 0
        self._messages = messages
        self._write = write
        self._config = pb.StreamingConfig()
        self._paused: float | None = None  # s up to which the next interim result must reach to be the one that Riva calls stable

    async def write(self, response: pb.StreamingResponse) -> None:
        """Send what Riva has words for."""
        kind = response.WhichOneof("response")
        if kind == "opened":
            self._config = response.opened.config
        elif kind == "speech_event" and response.speech_event.kind == pb.SpeechEvent.EOU:
            self._paused = response.speech_event.offset.ToNanoseconds() / 1e9 + self.eou_ms / 1000
        elif kind == "result":
            found = self._streamed(response.result)
            await self._write(self._messages.StreamingRecognizeResponse(results=[found], id=self.id))

    def _streamed(self, result: pb.Result) -> Any:
        told = _common(result, self._config, self._messages)
        stable, reached = result.stability, told["audio_processed"]
        if result.is_final or (self._paused is not None and reached >= self._paused):
            self._paused, stable = None, 1.0
        return self._messages.StreamingRecognitionResult(**told, is_final=result.is_final, stability=stable)


async def _sound(incoming: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async for request in incoming:
        check(request, honoured=HONOURED)
        if request.WhichOneof("streaming_request") != "audio_content":
            raise invalid("streaming_config", "sent twice; one stream has one config")
        yield request.audio_content


async def _head(chunks: AsyncIterator[bytes]) -> bytes:
    """Whole chunks, until they are long enough to tell what they are; all there are where that is less."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD:
            break
    return head


def _common(result: pb.Result, config: pb.StreamingConfig, messages: Any) -> Mapping[str, Any]:
    """What results of streams and of recordings share; words and confidences belong to finals, words to the best one."""
    told = [_alternative(each, n, result.is_final, config, messages) for n, each in enumerate(result.alternatives)]
    return {"alternatives": told, "channel_tag": 1, "audio_processed": result.end.ToNanoseconds() / 1e9}


def _alternative(found: pb.Alternative, place: int, final: bool, config: pb.StreamingConfig, messages: Any) -> Any:
    told = messages.SpeechRecognitionAlternative(transcript=found.transcript, language_code=[config.language])
    if final:
        told.confidence = found.confidence
    for word in found.words if final and not place else ():
        start, end = word.start.ToMilliseconds(), word.end.ToMilliseconds()
        told.words.add(word=word.text, start_time=start, end_time=end, confidence=word.confidence, language_code=config.language)
    return told
