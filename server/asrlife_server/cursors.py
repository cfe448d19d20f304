"""How far a stream has come, counted in its samples."""

from __future__ import annotations

from collections import deque

from asrlife.v1 import asrlife_pb2 as pb

Span = tuple[int, int]


class Cursors:
    """Told of every utterance as it is cut, finalised and adapted to, each in its order; `adapts` says whether the last happens."""

    def __init__(self, rate: int, adapts: bool) -> None:
        self.received = 0
        self._rate = rate
        self._adapts = adapts
        self._recognised = 0
        self._unheard: deque[Span] = deque()  # without a final
        self._untaught: deque[Span] = deque()  # not adapted to
        self._told = 0

    def cut(self, span: Span) -> None:
        """An utterance has ended."""
        self._unheard.append(span)
        if self._adapts:
            self._untaught.append(span)

    def guessed(self, end: int) -> None:
        """An interim result reaches to sample `end`."""
        self._recognised = max(self._recognised, end)

    def finalised(self) -> None:
        """The oldest utterance without a final has one."""
        if self._unheard:
            self.guessed(self._unheard.popleft()[1])

    def adapted(self) -> None:
        """The oldest utterance that was not adapted to has been, or was passed over."""
        if self._untaught:
            self._untaught.popleft()

    @property
    def due(self) -> bool:
        """Whether a second of sound has come since the last message."""
        return self.received >= self.next_due

    @property
    def next_due(self) -> int:
        """The sample with which they are due again."""
        return self._told + self._rate

    def final(self, begun: int | None) -> int:
        """The sample before which every utterance has its final; `begun` is where the utterance under way begins."""
        return self._unheard[0][0] if self._unheard else self.received if begun is None else begun

    @property
    def backlog(self) -> int:
        """Samples of utterances that have ended and wait for their finals."""
        return sum(end - start for start, end in tuple(self._unheard))

    def message(self, begun: int | None) -> pb.StreamingResponse:
        """The cursors now."""
        self._told = self.received
        final = self.final(begun)
        adapted = min(final, self._untaught[0][0]) if self._untaught else final
        return pb.StreamingResponse(
            cursors=pb.Cursors(
                received_ms=self.milliseconds(self.received),
                processed_ms=self.milliseconds(max(self._recognised, final)),
                final_ms=self.milliseconds(final),
                adapted_ms=self.milliseconds(adapted),
                backlog_ms=self.milliseconds(self.backlog),
            )
        )

    def milliseconds(self, samples: int) -> int:
        """Samples as ms, rounded down."""
        return samples * 1000 // self._rate
