"""One stream as a state machine: sound and commands in, messages and work out. Knows no sockets, no threads and no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.methods.online.method import Event
from asrlife.text.hypothesis import Hypothesis
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import ears, hearing, lessons, oddities, wire
from asrlife_server.agreement import Agreement
from asrlife_server.cursors import Cursors
from asrlife_server.endpointing import Began, Endpointer, Happening, Judge, Paused
from asrlife_server.jobs import Task
from asrlife_server.lessons import Lesson
from asrlife_server.opening import Opening
from asrlife_server.patience import Patience
from asrlife_server.refusal import Refusal
from asrlife_server.shelf import Shelf
from asrlife_server.work import Command, Heard, Messages, Spoken, Step, Totals

_NOT_KEPT = frozenset({"slow_committed", "reset"})  # events that say nothing of a stream which keeps nothing
_NOTHING = Hypothesis("", (), (), 0.0)


class Session:
    """Holds one stream's audio, endpointing and adaptation state.

    What `hear`, `recognition` and `learning` stand for is model work and leaves the adaptation state alone; `commit`, `obey` and `restart`
    change it at once.
    """

    def __init__(self, name: str, opening: Opening, model: Any, endpointer: Endpointer, state: Any) -> None:
        self.name = name
        self.opening = opening
        self.totals = Totals()
        self.version = 0
        self.state = state
        self.frozen = False
        self.read_only = False
        self.drift_cap: float | None = None
        self._source = state
        self._first = 0  # index of this stream's first utterance
        self._model = model
        self._endpointer = endpointer
        self._decoder = opening.decoder
        self._agreement = Agreement()
        self._cursors = Cursors(opening.rate, self.adapts)
        self._shelf = Shelf(opening, endpointer, self._cursors)
        self._patience = Patience.of(opening.config)
        self._waiting: dict[int, Sequence[Hypothesis]] = {}  # finals that wait for their adaptation
        self._begun = 0  # utterances
        self._shown = 0  # sample up to which an interim result was asked for
        self._sequence: int | None = None

    @property
    def adapts(self) -> bool:
        """Whether finals are refined."""
        return bool(self.opening.config.adaptation.method != "none")

    def adopt(self, state: Any, version: int, begun: int) -> None:
        """Start from a state that was kept, in a session that has begun so many utterances."""
        self.state, self.version = state, version
        self._first = self._begun = begun

    def hear(self, audio: pb.Audio) -> Heard:
        """Take a chunk of sound."""
        found = hearing.task(self, audio).alone(self._model)
        if isinstance(found, Refusal):
            raise found
        return found

    def taken(self, audio: pb.Audio) -> tuple[Messages, list[np.ndarray]]:
        """Put a chunk away: what is odd about it, and the windows that are to be judged."""
        return self._gap(audio), self._put(self._decoder.decode(audio.content))

    def put_away(self, content: bytes) -> bool:
        """Take a chunk from which nothing follows but that it is there; False, and nothing is done, where something may."""
        put = self._shelf.put(content)
        self.totals.audio = self._cursors.received / self.opening.rate
        return put

    def judged(self, speech: Sequence[float]) -> Heard:
        """What the sound put away led to, by the probability of speech in each window."""
        happened = self._endpointer.judged(speech)
        heard = self._sorted(happened)
        heard.work += self._interim(any(isinstance(event, Paused) for event in happened))
        if self._cursors.due:
            heard.messages += self.cursors()
        self._lose_patience(heard)
        self._shelf.looked(self._shown)
        return heard

    @property
    def judge(self) -> Judge | None:
        """Who judges the windows."""
        return self._endpointer.judge

    def silence(self, milliseconds: int) -> Heard:
        """Take silence that the client did not send sample by sample."""
        return self._feed(np.zeros(milliseconds * self.opening.rate // 1000, np.float32))

    def finalise(self) -> Heard:
        """End the utterance under way."""
        return self._sorted(list(self._endpointer.flush()))

    def finish(self) -> Heard:
        """End everything: the client has said that no more comes."""
        last, end = self._feed(self._decoder.finish()), self.finalise()
        heard = Heard(last.messages + end.messages, last.work + end.work)
        if self._decoder.left_over:
            text = f"{self._decoder.left_over} bytes at the end are no whole sample; they are dropped"
            heard.messages.append(wire.warning("TRUNCATED_SAMPLE", "audio.content", text))
        return heard

    def recognition(self, spoken: Spoken) -> Task[Sequence[Hypothesis]]:
        """To find the words of the base model, unadapted: the best, and for a whole utterance as many others as the client asked for."""
        if not spoken.segment.samples.any():
            return Task.calling(lambda: [_NOTHING])
        sound, wanted = partial(self._waveform, spoken), self.opening.config.max_alternatives
        seconds = lessons.seconds(self.opening, spoken)
        if spoken.whole and wanted > 1:
            return Task(sound, lambda model, sounds: [list(model.alternatives(each(), wanted)) for each in sounds], None, seconds)
        return Task(sound, _transcribed, "recognition", seconds)

    def lesson(self, spoken: Spoken) -> Lesson:
        """An utterance to adapt to; digital silence teaches nothing, and neither does what the method cannot take."""
        bounded = partial(lessons.bounded, self._source, self.drift_cap)
        seconds = lessons.seconds(self.opening, spoken)
        return Lesson(spoken, self.state, seconds, partial(lessons.unfit, self.opening), self._utterance, bounded)

    def learning(self, lesson: Lesson) -> Task[Step]:
        """To adapt to an utterance."""
        return lessons.task(self.opening.method, lesson)

    def answer(self, spoken: Spoken, found: Sequence[Hypothesis]) -> Messages:
        """The final of an utterance; nothing yet where the final is to be the adapted text."""
        if self.adapts and not self.opening.config.adaptation.refine_finals:
            self._waiting[spoken.index] = found
            return []
        return [self.told(spoken, found)]

    def told(self, spoken: Spoken, found: Sequence[Hypothesis], adapted: bool = False) -> pb.StreamingResponse:
        """An interim or a final result."""
        if spoken.whole:
            stable = len(found[0].text)
            self._cursors.finalised()
        else:
            shown, stable = self._agreement.taken(spoken.index, found[0])
            found = [shown]
            self._cursors.guessed(spoken.segment.end)
        result = wire.result(found, stable, self.opening.config, spoken.segment)
        result.utterance_index, result.is_final, result.adapted = spoken.index, spoken.whole, adapted
        result.state_version = self.version if adapted else 0
        return pb.StreamingResponse(result=result)

    def commit(self, step: Step) -> Messages:
        """Keep what a step learnt, whole, and say so; the version counts the changes of what is carried."""
        if self.read_only:
            step = replace(step, state=self.state, events=tuple(event for event in step.events if event.kind not in _NOT_KEPT))
        if step.state is not self.state:
            self.state, self.version = step.state, self.version + 1
        self.totals.resets += sum(event.kind == "reset" for event in step.events)
        stepped: Mapping[str, Any] = next((event.detail for event in step.events if event.kind == "stepped"), {})
        self.totals.steps += int(stepped.get("steps", 0))
        events = [wire.adapted(event, step.spoken.index, self.version, None if self.read_only else step.drift) for event in step.events]
        self._cursors.adapted()
        return self._answers(step, stepped) + events

    def obey(self, command: Command) -> None:
        """Freeze or let go."""
        self.frozen = command.control == pb.FREEZE

    def restart(self, state: Any) -> Messages:
        """Go back to `state`, the method's start."""
        self.state, self.version = state, 0 if self.read_only else self.version + 1
        self.totals.resets += 1
        return [wire.adapted(Event("reset", {"reason": "requested"}), self.next_index, self.version)]

    @property
    def next_index(self) -> int:
        """The utterance behind those that have been recognised."""
        return self._first + self.totals.utterances

    def cursors(self) -> Messages:
        """Where the stream is, if the client asked to know."""
        return [self._cursors.message(self._endpointer.begun)] if self.opening.config.cursors else []

    @property
    def final_ms(self) -> int:
        """The ms of sound before which every utterance has its final."""
        return self._cursors.milliseconds(self._cursors.final(self._endpointer.begun))

    @property
    def backlog_s(self) -> float:
        """Sound (s) of utterances that have ended and wait for their finals; for any thread."""
        return self._cursors.backlog / self.opening.rate

    def start(self) -> Any:
        """The method's state before any utterance."""
        return self.opening.method.start(self._model)

    def closed(self, digest: str) -> pb.StreamingResponse:
        """The last message of a stream."""
        totals = self.totals
        closed = pb.Closed(utterances=totals.utterances, steps=totals.steps, resets=totals.resets)
        closed.state_version, closed.state_digest = self.version, digest
        for name in ("audio", "compute", "adaptation"):
            getattr(closed, name).CopyFrom(wire.duration(getattr(totals, name)))
        return pb.StreamingResponse(closed=closed)

    def _gap(self, audio: pb.Audio) -> Messages:
        if not audio.HasField("sequence"):
            return []
        expected, self._sequence = self._sequence, audio.sequence + 1
        if expected in (None, audio.sequence):
            return []
        return [wire.warning("DATA_LOSS", "audio.sequence", f"chunk {expected} was expected, {audio.sequence} came")]

    def _put(self, samples: np.ndarray) -> list[np.ndarray]:
        self._cursors.received += len(samples)
        self.totals.audio = self._cursors.received / self.opening.rate
        return self._endpointer.take(samples)

    def _feed(self, samples: np.ndarray) -> Heard:
        windows = self._put(samples)
        return self.judged(ears.judged([self.judge], [windows])[0])

    def _lose_patience(self, heard: Heard) -> None:
        at = self._patience.expired(self._cursors.received, self._endpointer.begun is not None)
        if at is not None:
            heard.messages.append(wire.speech(pb.SpeechEvent.TIMEOUT, at / self.opening.rate))
            heard.over = True

    def _interim(self, paused: bool) -> list[Spoken]:
        begun, interval = self._endpointer.begun, self.opening.interval
        if interval is None or begun is None or self._cursors.received - max(self._shown, begun) < (1 if paused else interval):
            return []
        segment = self._endpointer.open
        assert segment is not None
        self._shown = segment.end
        return [Spoken(self._begun, segment, whole=False)]

    def _sorted(self, events: Sequence[Happening]) -> Heard:
        heard = Heard()
        for event in events:
            if isinstance(event, Began):
                self._patience.began()
                self._say(heard, pb.SpeechEvent.BEGIN, event.offset)
                continue
            if isinstance(event, Paused):
                heard.messages.append(wire.speech(pb.SpeechEvent.EOU, event.offset / self.opening.rate))
                continue
            self._cursors.cut((event.start, event.end))
            self._patience.ended(event.end)
            if event.forced:
                heard.messages.append(wire.speech(pb.SpeechEvent.FORCED, event.end / self.opening.rate))
            else:
                self._say(heard, pb.SpeechEvent.END, event.end)
            heard.messages.extend(oddities.warnings(event, self.opening.rate, self._begun))
            heard.work.append(Spoken(self._begun, event))
            self._begun += 1
        return heard

    def _say(self, heard: Heard, kind: pb.SpeechEvent.Kind.ValueType, offset: int) -> None:
        if self.opening.config.vad_events:
            heard.messages.append(wire.speech(kind, offset / self.opening.rate))

    def _utterance(self, spoken: Spoken) -> Utterance:
        return Utterance(f"{self.name}/{spoken.index}", self._waveform(spoken))

    def _waveform(self, spoken: Spoken) -> Waveform:
        return Waveform(spoken.segment.samples, self.opening.rate).resampled(16_000)

    def _answers(self, step: Step, stepped: Mapping[str, Any]) -> Messages:
        waiting = self._waiting.pop(step.spoken.index, None)
        if waiting is not None:
            return [self.told(step.spoken, [step.hypothesis] if step.hypothesis else waiting, adapted=step.hypothesis is not None)]
        return [self._refinement(step, step.hypothesis, stepped)] if step.hypothesis else []

    def _refinement(self, step: Step, hypothesis: Hypothesis, stepped: Mapping[str, Any]) -> pb.StreamingResponse:
        start = step.spoken.segment.start / self.opening.rate
        refinement = pb.Refinement(utterance_index=step.spoken.index, steps=int(stepped.get("steps", 0)), state_version=self.version)
        refinement.alternatives.append(wire.alternative(hypothesis, self.opening.config, start))
        for name in ("entropy_before", "entropy_after"):
            if name in stepped:
                setattr(refinement, name, float(stepped[name]))
        return pb.StreamingResponse(refinement=refinement)


def _transcribed(model: Any, sounds: Sequence[Callable[[], Waveform]]) -> list[Sequence[Hypothesis]]:
    return [[found] for found in model.transcribe([sound() for sound in sounds], batch_size=len(sounds))]
