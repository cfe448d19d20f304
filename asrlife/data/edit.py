"""What is to be edited, and what is asked about it afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from asrlife.errors import InputError


@dataclass(frozen=True)
class EditRequest:
    """After `prompt`, in which `subject` stands, a model is to say `target`; `phrasings` are further prompts that say the same.

    An edit is made from the prompt and the phrasings, and from nothing else. What is asked about it afterwards are prompts with the right
    answers: `paraphrases` of the fact, its `reversals` and `hops`, which should follow, and `neighbours`, which should not.
    """

    subject: str
    prompt: str
    target: str
    phrasings: tuple[str, ...] = ()
    paraphrases: tuple[tuple[str, str], ...] = ()
    reversals: tuple[tuple[str, str], ...] = ()
    hops: tuple[tuple[str, str], ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()

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
