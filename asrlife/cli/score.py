"""A stream's transcripts scored as an evaluation scores its own."""

from __future__ import annotations

from asrlife.cli.sending import Sending
from asrlife.client import Spoken, Transcript
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.evaluate.evaluation import Outcome, Run
from asrlife.evaluate.wer import count


def run_of(adapt: str, sending: Sending, heard: Transcript) -> Run:
    """Pair what was sent with what was heard, utterance by utterance; the server's own seconds are the cost.

    Raises InputError where the stream did not close, as its cost and its end are then unknown.
    """
    if heard.closed is None:
        raise InputError(f"the stream with {adapt} broke off; the server's log says why")
    parts: dict[str, list[Spoken]] = {name: [] for name, _, _ in sending.spans}
    for spoken in heard.utterances:
        owner = sending.owner(spoken.start, spoken.end)
        if owner is not None:
            parts[owner].append(spoken)
    by_id = {utterance.id: utterance for utterance in sending.utterances}
    outcomes = tuple(_outcome(by_id[name], end - start, parts[name]) for name, start, end in sending.spans)
    seconds = heard.closed.compute + heard.closed.adaptation
    return Run(adapt, outcomes, seconds, seconds)


def _outcome(utterance: Utterance, seconds: float, parts: list[Spoken]) -> Outcome:
    reference = utterance.text or ""
    text = " ".join(spoken.text for spoken in parts)
    before = " ".join(_before(spoken) for spoken in parts)
    kinds = tuple(event.kind for spoken in parts for event in spoken.events)
    return Outcome(utterance.id, reference, text, before, count(reference, text), count(reference, before), seconds, kinds)


def _before(spoken: Spoken) -> str:
    """The text under the weights carried to an utterance: an event tells it, else it is the fast one."""
    return next((str(event.detail["before"]) for event in spoken.events if "before" in event.detail), spoken.final)
