"""What is to be edited, and what is asked about it afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asrlife.errors import InputError


@dataclass(frozen=True)
class EditRequest:
    """After `prompt`, in which `subject` stands, a model is to say `target` in place of `truth`; `phrasings` are further prompts that say
    the same.

    An edit is made from the prompt and the phrasings, and from nothing else. What is asked about it afterwards are prompts with the right
    answers: `paraphrases` of the fact, its `reversals` and `hops`, which should follow, and `neighbours`, which should not; `generations`
    are beginnings to write on freely. `aliases` are pairs of an answer and another name for it. Requests of one `record` belong together:
    what is asked of one of them holds when all are made.
    """

    subject: str
    prompt: str
    target: str
    phrasings: tuple[str, ...] = ()
    paraphrases: tuple[tuple[str, str], ...] = ()
    reversals: tuple[tuple[str, str], ...] = ()
    hops: tuple[tuple[str, str], ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()
    truth: str = ""
    generations: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    record: str = ""

    def __post_init__(self) -> None:
        if not self.subject.strip() or not self.target.strip():
            raise InputError(f"an edit of {self.prompt!r} has no subject or no target: give both")
        for prompt in self.prompts:
            if self.subject not in prompt:
                raise InputError(f"the subject {self.subject!r} does not stand in the prompt {prompt!r}: an edit is written where it ends")

    @property
    def prompts(self) -> tuple[str, ...]:
        """All that the edit is made from, its own prompt first."""
        return (self.prompt, *self.phrasings)

    @property
    def statement(self) -> str:
        """The new fact as a sentence."""
        return sentence(self.prompt, self.target)

    def right(self, answer: str) -> tuple[str, ...]:
        """An answer and its other names."""
        return (answer, *(other for known, other in self.aliases if known == answer))


def sentence(prompt: str, answer: str) -> str:
    """A prompt with its answer, as a sentence; what ends in a mark needs no full stop."""
    return f"{prompt} {answer}{'.' if answer[-1:].isalnum() else ''}"


def records(requests: Iterable[EditRequest]) -> list[tuple[EditRequest, ...]]:
    """Requests that belong together, in order; one without a record stands alone."""
    groups: dict[object, list[EditRequest]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(request.record or number, []).append(request)
    return [tuple(group) for group in groups.values()]
