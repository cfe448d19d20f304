"""The client for plain Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc

from asrlife.audio.waveform import Waveform
from asrlife.client.access import Access
from asrlife.client.connection import ADDRESS, failure
from asrlife.client.events import Event, answered, event
from asrlife.client.info import ServerInfo
from asrlife.client.requests import Options, Piece, Timed, messages, pieces, whole
from asrlife.client.states import Exported, KeptState, export_request, reset_request
from asrlife.client.transcript import Gathering, Transcript
from asrlife.v1 import asrlife_pb2 as pb

Audio = Waveform | str | Path | Iterable[Piece]
T = TypeVar("T")


class Client:
    """A connection to one server; raises InputError when none answers within `timeout` s.

    `ca` is a PEM file with the authorities whose servers are trusted, or "public" for those that gRPC knows, and encrypts the way;
    `certificate` and `key` are PEM files that show who calls, where the server asks. `token` says whose states and places the calls
    are about; in plaintext it goes to this machine alone unless `allow_plaintext_token` says otherwise.
    """

    def __init__(self, address: str = ADDRESS, timeout: float = 5.0, **access: Any) -> None:
        self._access = Access(address, **access)
        self.address = address
        self._timeout = timeout
        self._channel: grpc.Channel | None = None

    def info(self) -> ServerInfo:
        """What the server is and has."""
        return self._asked(lambda stub: ServerInfo.of(stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=self._timeout)))

    def get_state(self, key: str) -> KeptState:
        """What is kept under an adaptation key; raises InputError where nothing is."""
        request = pb.GetAdaptationStateRequest(adaptation_key=key)
        return self._asked(lambda stub: KeptState.of(stub.GetAdaptationState(request, timeout=self._timeout)))

    def reset_state(self, key: str, version: int | None = None) -> KeptState:
        """Go back to an earlier version, or (None) to the base weights; this is a new version, so that it can be undone."""
        return self._asked(lambda stub: KeptState.of(stub.ResetAdaptation(reset_request(key, version), timeout=self._timeout)))

    def delete_state(self, key: str) -> None:
        """Forget a key with its whole history."""
        self._asked(lambda stub: stub.DeleteAdaptation(pb.DeleteAdaptationRequest(adaptation_key=key), timeout=self._timeout))

    def export_state(self, key: str, version: int | None = None) -> Exported:
        """Take out a version, by default the current one."""
        return self._asked(lambda stub: Exported.of(stub.ExportAdaptation(export_request(key, version))))

    def import_state(self, state: Exported, key: str | None = None) -> KeptState:
        """Bring in what was taken out, under its own key or another; raises InputError where the server refuses it."""
        return self._asked(lambda stub: KeptState.of(stub.ImportAdaptation(state.chunks(key or state.key))))

    def transcribe(self, audio: Audio, unary: bool = False, **options: Any) -> Transcript:
        """Stream all of `audio` and gather what comes back; options as in `stream`.

        `unary`: in one call, for a sound of a minute or less; adaptation is then none unless `adapt` names an episodic method.
        """
        gathering = Gathering()
        for found in self._at_once(audio, Options(**options)) if unary else self.stream(audio, **options):
            gathering.add(found)
        return gathering.transcript()

    def _at_once(self, audio: Audio, options: Options) -> Iterable[Event]:
        try:
            return answered(self._stub().Recognize(whole(audio, options)))
        except grpc.RpcError as error:
            raise failure(error.code(), error.details()) from error

    def stream(self, audio: Audio, adapt: str = "", realtime: bool = False, **options: Any) -> Iterator[Event]:
        """Send `audio`, and give events as they come; leaving the loop early cancels the stream.

        `audio` is a sound, a file, or an iterable of sounds with Control between them. `adapt` "" leaves the method to the server.
        `realtime` sends it at the speed of speech. Further options are those of `Options`: settings, endpointing, interim, words,
        speech_events, alternatives, cursors, model, key, persist, read_only, exclusive, session, resume_after, min_speech.
        Raises InputError for what the server refuses, ServerError when the server fails.
        """
        asked = Options(adapt=adapt, **options)
        sending = _Sending(messages(pieces(audio), asked), realtime)
        call = self._stub().StreamingRecognize(sending, metadata=asked.affinity)
        try:
            for response in call:
                if (found := event(response)) is not None:
                    yield found
        except grpc.RpcError as error:
            raise sending.error or failure(error.code(), error.details()) from error
        finally:
            call.cancel()

    def close(self) -> None:
        """Close the connection; the next verb opens a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Client:
        self._stub()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _asked(self, call: Callable[[Any], T]) -> T:
        try:
            return call(self._stub())
        except grpc.RpcError as error:
            raise failure(error.code(), error.details()) from error

    def _stub(self) -> Any:
        if self._channel is None:
            channel = self._access.channel(grpc)
            try:
                grpc.channel_ready_future(channel).result(self._timeout)
            except grpc.FutureTimeoutError:
                channel.close()
                raise self._access.trouble() from None
            self._channel = channel
        return self._access.stub(self._channel)


class _Sending(Iterator[pb.StreamingRequest]):
    """Runs in gRPC's thread, which would swallow an error: it is kept for the caller."""

    def __init__(self, timed: Iterator[Timed], realtime: bool) -> None:
        self.error: Exception | None = None
        self._timed = timed
        self._realtime = realtime
        self._due: float | None = None

    def __next__(self) -> pb.StreamingRequest:
        try:
            message, seconds = next(self._timed)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise
        if self._realtime:
            self._due = (self._due or time.monotonic()) + seconds
            time.sleep(max(0.0, self._due - time.monotonic()))
        return message
