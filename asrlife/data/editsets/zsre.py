"""zsRE as edit sets have it (arXiv 2110.11309): a question, a rephrasing, an unrelated question."""

from __future__ import annotations

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.knowedit import portable
from asrlife.data.editsets.rows import Row, as_it_stands, others, text_of, texts_of

_NATURAL = "nq question: "  # stands before the unrelated question, and is no part of it


def is_zsre(row: Row) -> bool:
    """A source with an alternative answer."""
    return "src" in row and "alt" in row


def zsre(row: Row) -> tuple[EditRequest, ...]:
    """A row as a request; what it asks besides, in variants with `portability`, comes with it."""
    prompt, target = text_of(row, "src"), text_of(row, "alt")
    old = texts_of(row, "answers")
    found, aliases = portable(row)
    rephrased = ((text_of(row, "rephrase"), target),) if row.get("rephrase") else ()
    near = ((text_of(row, "loc").removeprefix(_NATURAL), text_of(row, "loc_ans")),) if row.get("loc") else ()
    found["paraphrases"] = (*rephrased, *found.get("paraphrases", ()))
    aliases = (*others(old), *aliases)
    subject = as_it_stands(text_of(row, "subject"), prompt)
    return (EditRequest(subject, prompt, target, truth=old[0] if old else "", neighbours=near, aliases=aliases, **found),)
