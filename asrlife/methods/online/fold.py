"""An online method is a fold over utterances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from asrlife.data.utterance import Utterance
from asrlife.methods.online.method import Event, Method
from asrlife.methods.online.state import State
from asrlife.models.handle import Recogniser
from asrlife.text.hypothesis import Hypothesis


class Fold(Iterator[tuple[Utterance, Hypothesis, tuple[Event, ...]]]):
    """An iterator of (utterance, hypothesis, events); `state` is what the stream has learnt so far.

    An utterance that cannot be read raises InputError, leaves `state` as it was, and the next `next()` goes on behind it.
    """

    def __init__(self, method: Method, model: Recogniser, utterances: Iterable[Utterance], state: State | None = None) -> None:
        self.method = method
        self.model = model
        self.state = method.start(model) if state is None else state
        self._utterances = iter(utterances)

    def __next__(self) -> tuple[Utterance, Hypothesis, tuple[Event, ...]]:
        """Recognise the next utterance and learn from it."""
        utterance = next(self._utterances)
        hypothesis, self.state, events = self.method.step(self.model, self.state, utterance)
        return utterance, hypothesis, events


def run(method: Method, model: Recogniser, utterances: Iterable[Utterance], state: State | None = None) -> Fold:
    """Fold `method` over `utterances`, from its start or from an earlier `state`; lazily, one utterance for each `next()`."""
    return Fold(method, model, utterances, state)
