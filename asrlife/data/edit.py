"""What is to be edited, and what is asked about it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from asrlife.errors import InputError


@dataclass(frozen=True)
class EditRequest:
    """After `prompt`, in which `subject` stands, a model is to say `target`.

    Prompts with the right answers by what they ask: `paraphrases` of the fact, its `reversals` and `hops`, which should follow, and
    `neighbours`, which should not.
    """

    subject: str
    prompt: str
    target: str
    paraphrases: tuple[tuple[str, str], ...] = ()
    reversals: tuple[tuple[str, str], ...] = ()
    hops: tuple[tuple[str, str], ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.subject.strip() or not self.target.strip():
            raise InputError(f"an edit of {self.prompt!r} has no subject or no target: give both")
        if self.subject not in self.prompt:
            raise InputError(f"the subject {self.subject!r} does not stand in the prompt {self.prompt!r}: an edit is written where it ends")
