"""MQuAKE (arXiv 2305.14795): several rewrites in one record, and questions of several hops that follow when all of them are made."""

from __future__ import annotations

from dataclasses import replace

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.counterfact import rewritten
from asrlife.data.editsets.rows import Fault, Pairs, Row, rows_of, text_of, texts_of


def is_mquake(row: Row) -> bool:
    """Several rewrites in each row."""
    return isinstance(row.get("requested_rewrite"), list)


def mquake(row: Row) -> tuple[EditRequest, ...]:
    """A request for each rewrite of a row; the first has the questions of several hops and the single hops that stay."""
    rewrites = rows_of(row, "requested_rewrite")
    if not rewrites:
        raise Fault("'requested_rewrite' is empty")
    first, *rest = (_request(rewrite) for rewrite in rewrites)
    answer = text_of(row, "new_answer")
    aliases: Pairs = tuple((answer, other) for other in texts_of(row, "new_answer_alias"))
    near, more = _stay(row)
    hops = tuple((question, answer) for question in texts_of(row, "questions"))
    return (replace(first, hops=hops, neighbours=near, aliases=(*aliases, *more)), *rest)


def _request(rewrite: Row) -> EditRequest:
    subject, prompt, new, old = rewritten(rewrite)
    asked = ((text_of(rewrite, "question"), new),) if rewrite.get("question") else ()
    return EditRequest(subject, prompt, new, truth=old, paraphrases=asked)


def _stay(row: Row) -> tuple[Pairs, Pairs]:
    """Single hops that have the same answer before and after, and their answers' other names."""
    before = {(text_of(hop, "question"), text_of(hop, "answer")) for hop in rows_of(row, "single_hops")}
    hops = {(text_of(hop, "question"), text_of(hop, "answer")): texts_of(hop, "answer_alias") for hop in rows_of(row, "new_single_hops")}
    kept = {pair: names for pair, names in hops.items() if pair in before}
    return tuple(kept), tuple((answer, other) for (_, answer), names in kept.items() for other in names)
