"""Edits from a file and into one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.counterfact import counterfact, is_counterfact
from asrlife.data.editsets.knowedit import is_knowedit, knowedit
from asrlife.data.editsets.mquake import is_mquake, mquake
from asrlife.data.editsets.own import is_own, own, to_row
from asrlife.data.editsets.rows import Fault, Row, numbered
from asrlife.data.editsets.zsre import is_zsre, zsre
from asrlife.errors import InputError
from asrlife.files import atomic


@dataclass(frozen=True)
class _Format:
    fits: Callable[[Row], bool]
    read: Callable[[Row], tuple[EditRequest, ...]]


_FORMATS: Mapping[str, _Format] = {
    "MQuAKE": _Format(is_mquake, mquake),
    "CounterFact": _Format(is_counterfact, counterfact),
    "zsRE": _Format(is_zsre, zsre),
    "KnowEdit": _Format(is_knowedit, knowedit),
    "edits": _Format(is_own, own),
}
_OURS = '{"subject": ..., "prompt": ..., "target": ...}'


def read_requests(path: Path | str, faulty: Callable[[str], None] | None = None) -> tuple[EditRequest, ...]:
    """The edits of a file: JSON (a list) or JSONL, of CounterFact, zsRE, KnowEdit, MQuAKE or our own, told by what stands in it.

    Our own rows are {"subject", "prompt", "target"} and, where there are any, "truth", "phrasings" and "generations" (texts),
    "paraphrases", "reversals", "hops" and "neighbours" (lists of {"prompt", "answer"}), "aliases" {answer: [other names]} and "record".

    A row that cannot be used raises InputError with its number and the cause; with `faulty` that is told instead, and the row left out.
    Raises InputError for a file that cannot be read, is of no known format, or has no row that can be used.
    """
    path = Path(path)
    found: list[EditRequest] = []
    form: _Format | None = None
    for where, row in numbered(path):
        try:
            form = form or _format(row)
            found += _read(form, row, where)
        except (Fault, InputError) as fault:
            if faulty is None:
                raise InputError(f"{path}: {where}: {fault}") from fault
            faulty(f"{path}: {where}: {fault}; left out")
    if not found:
        raise InputError(f"{path}: no row can be used; write rows as {_OURS}, or give CounterFact, zsRE, KnowEdit or MQuAKE")
    return tuple(found)


def write_requests(path: Path | str, requests: Sequence[EditRequest]) -> None:
    """Write JSONL that `read_requests` reads, whole or not at all."""
    with atomic(Path(path), "w") as file:
        for request in requests:
            file.write(json.dumps(to_row(request), ensure_ascii=False) + "\n")


def _format(row: Any) -> _Format:
    for form in _FORMATS.values():
        if isinstance(row, dict) and form.fits(row):
            return form
    if isinstance(row, dict):
        raise Fault(f"is of no known format; its keys: {', '.join(map(repr, row)) or 'none'}; write rows as {_OURS}")
    raise row if isinstance(row, Fault) else Fault(f"is a JSON {type(row).__name__}, no object")


def _read(form: _Format, row: Any, where: str) -> tuple[EditRequest, ...]:
    if isinstance(row, Fault):
        raise row
    if not isinstance(row, dict):
        raise Fault(f"is a JSON {type(row).__name__}, no object")
    found = form.read(row)
    return found if len(found) == 1 else tuple(replace(request, record=where) for request in found)
