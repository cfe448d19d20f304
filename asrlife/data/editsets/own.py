"""Our own rows: the fields of a request under their names, prompts with answers as objects."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.rows import Fault, Pairs, Row, as_it_stands, row_of, rows_of, text_of, texts_of
from asrlife.delta.delta import nearest

_PROBES = ("paraphrases", "reversals", "hops", "neighbours")
_KNOWN = [field.name for field in fields(EditRequest)]


def is_own(row: Row) -> bool:
    """A prompt with its target."""
    return "prompt" in row and "target" in row


def own(row: Row) -> tuple[EditRequest, ...]:
    """A row as a request; a key that means nothing is a fault, since what is misspelt would not be asked."""
    for key in row:
        if key not in _KNOWN:
            raise Fault(f"has an unknown key {key!r}{nearest(key, dict.fromkeys(_KNOWN))}; known: {', '.join(_KNOWN)}")
    prompt = text_of(row, "prompt")
    paraphrases, reversals, hops, neighbours = (_pairs(row, name) for name in _PROBES)
    truth, record = (text_of(row, name) if row.get(name) else "" for name in ("truth", "record"))
    aliases = _aliases(row_of(row, "aliases")) if row.get("aliases") else ()
    request = EditRequest(
        as_it_stands(text_of(row, "subject"), prompt), prompt, text_of(row, "target"), texts_of(row, "phrasings"),
        paraphrases, reversals, hops, neighbours, truth, texts_of(row, "generations"), aliases, record,
    )  # fmt: skip
    return (request,)


def to_row(request: EditRequest) -> dict[str, Any]:
    """What `own` reads as this request; what is empty is left out."""
    row: dict[str, Any] = {"subject": request.subject, "prompt": request.prompt, "target": request.target, "truth": request.truth}
    row |= {name: [{"prompt": prompt, "answer": answer} for prompt, answer in getattr(request, name)] for name in _PROBES}
    aliases: dict[str, list[str]] = {}
    for answer, other in request.aliases:
        aliases.setdefault(answer, []).append(other)
    row |= {"phrasings": list(request.phrasings), "generations": list(request.generations), "aliases": aliases, "record": request.record}
    return {key: value for key, value in row.items() if value}


def _pairs(row: Row, name: str) -> Pairs:
    return tuple((text_of(one, "prompt"), text_of(one, "answer")) for one in rows_of(row, name))


def _aliases(row: Row) -> Pairs:
    return tuple((answer, other) for answer in row for other in texts_of(row, answer))
