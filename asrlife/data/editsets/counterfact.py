"""CounterFact (arXiv 2202.05262): a rewrite, paraphrases of it, neighbours that share the old object, beginnings to write on."""

from __future__ import annotations

from asrlife.data.edit import EditRequest
from asrlife.data.editsets.knowedit import portable
from asrlife.data.editsets.rows import Fault, Row, row_of, text_of, texts_of


def is_counterfact(row: Row) -> bool:
    """One rewrite in each row."""
    return isinstance(row.get("requested_rewrite"), dict)


def counterfact(row: Row) -> tuple[EditRequest, ...]:
    """A row as a request; what it asks besides, in variants with `portability`, comes with it."""
    rewrite = row_of(row, "requested_rewrite")
    subject, prompt, new, old = rewritten(rewrite)
    found, aliases = portable(row)
    found["paraphrases"] = (*((text, new) for text in texts_of(row, "paraphrase_prompts")), *found.get("paraphrases", ()))
    near = tuple((text, old) for text in texts_of(row, "neighborhood_prompts"))
    begun = texts_of(row, "generation_prompts")
    return (EditRequest(subject, prompt, new, truth=old, neighbours=near, generations=begun, aliases=aliases, **found),)


def rewritten(rewrite: Row) -> tuple[str, str, str, str]:
    """Subject, prompt, new and old object of a rewrite."""
    subject, form = text_of(rewrite, "subject"), text_of(rewrite, "prompt")
    if "{}" not in form:
        raise Fault(f"the prompt {form!r} has no {{}} where its subject is to stand")
    new, old = text_of(row_of(rewrite, "target_new"), "str"), text_of(row_of(rewrite, "target_true"), "str")
    return subject, form.replace("{}", subject), new, old
