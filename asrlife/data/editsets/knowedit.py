"""KnowEdit and the other sets in its toolkit's format (arXiv 2401.01286): prompt, new target, rephrasing, locality and portability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.rows import Fault, Follows, Pairs, Row, as_it_stands, flat, others, rows_of, text_of

Kind = Literal["paraphrases", "reversals", "hops"]
_PORTABLE: Mapping[str, Kind] = {"subject_aliasing": "paraphrases", "logical_generalization": "reversals"}  # all others need hops


def is_knowedit(row: Row) -> bool:
    """A new target beside a prompt, which some of the sets call text."""
    return "target_new" in row and ("prompt" in row or "text" in row)


def knowedit(row: Row) -> tuple[EditRequest, ...]:
    """A row as a request. Reasoning becomes hops, aliases of the subject paraphrases, and logical generalisation reversals."""
    prompt, target = text_of(row, "prompt" if "prompt" in row else "text"), text_of(row, "target_new")
    subject = as_it_stands(text_of(row, "subject" if "subject" in row else "concept"), prompt)
    old = flat(row.get("ground_truth") or [])
    found, aliases = portable(row)
    near, more = _near(row)
    found["paraphrases"] = (*((text, target) for text in flat(row.get("rephrase_prompt") or [])), *found.get("paraphrases", ()))
    aliases = (*others(old), *aliases, *more)
    return (EditRequest(subject, prompt, target, truth=old[0] if old else "", neighbours=near, aliases=aliases, **found),)


def portable(row: Row) -> tuple[Follows, Pairs]:
    """What a row asks that should follow, by kind, and other names of the answers; variants have one question or lists by kind."""
    given = row.get("portability") or {}
    if not isinstance(given, dict):
        raise Fault("'portability' is no object")
    if "New Question" in given:
        return {"hops": ((text_of(given, "New Question"), text_of(given, "New Answer")),)}, ()
    found: Follows = {}
    aliases: Pairs = ()
    for kind in given:
        field: Kind = _PORTABLE.get(kind.lower(), "hops")
        pairs, more = _asked(given, kind)
        found[field], aliases = (*found.get(field, ()), *pairs), (*aliases, *more)
    return found, aliases


def _near(row: Row) -> tuple[Pairs, Pairs]:
    """What a row asks that should stay, in either layout."""
    if "locality_prompt" in row:
        answers = flat(row.get("locality_ground_truth") or [])
        if not answers:
            raise Fault("has 'locality_prompt' without 'locality_ground_truth'")
        return ((text_of(row, "locality_prompt"), answers[0]),), others(answers)
    given = row.get("locality") or {}
    if not isinstance(given, dict):
        raise Fault("'locality' is no object")
    found = [_asked(given, kind) for kind in given]
    return tuple(pair for pairs, _ in found for pair in pairs), tuple(pair for _, more in found for pair in more)


def _asked(given: Row, kind: str) -> tuple[Pairs, Pairs]:
    """Prompts with their first answers, and the answers' other names; those without an answer are left out, as in the sets' own reader."""
    rows = [(flat(one.get("prompt") or []), flat(one.get("ground_truth") or [])) for one in rows_of(given, kind)]
    asked = [(prompts[0], answers) for prompts, answers in rows if prompts and answers]
    return tuple((prompt, answers[0]) for prompt, answers in asked), tuple(pair for _, answers in asked for pair in others(answers))
