"""asrlife edit facts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson, pairs

if TYPE_CHECKING:
    from asrlife.data.edit import EditRequest
    from asrlife.models.text import TextModel
    from asrlife.recipe.edit_facts.make import Done


def facts(
    model: Annotated[str, typer.Argument(help="embedded:lm, the folder of a causal language model, or a hub id.")],
    subject: Annotated[str | None, typer.Option(help="Who or what the fact is about: a part of --prompt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The beginning of a sentence, or a question, that the new object follows.")] = None,
    target: Annotated[str | None, typer.Option(help="The new object.")] = None,
    phrasing: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A further prompt to edit from. Repeat it.")] = None,
    ask: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A prompt to ask before and after. Repeat it.")] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Edits from JSON or JSONL: CounterFact, zsRE, MQuAKE, our own.")] = None,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="At most N edits of --file.")] = 100,
    method: Annotated[str, typer.Option(help="rome, memit, emmet, alphaedit, ultraedit, ft_l, ft_m or lora.")] = "rome",
    layers: Annotated[str | None, typer.Option(metavar="N,N", help="Blocks to write to.", show_default="by tracing")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="A setting, as search.rate=0.3. Repeat it.")] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=0, help="N edits at once, batch after batch; 0: all at once.")] = 0,
    premise: Annotated[str, typer.Option(help="How the in-context baseline is told.")] = "New fact: {premise}\\n{rest}",
    seed: Annotated[int, typer.Option(metavar="S", help="Decides contexts and texts that the model writes.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the delta, NAME.safetensors.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/report.html and DIR/report.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change facts of a language model; the rest of it is to stay.

    The model stays as it is: what comes out is a low-rank delta. Use it with
    `asrlife text complete --delta`, add, negate and merge it with `asrlife
    delta`. The answers are the model's own, greedy and free-running, beside
    those of the model as it was and of one that is told the fact in context.

    A line of --file: {"subject": ..., "prompt": ..., "target": ...}, and as
    one likes "phrasings", "paraphrases", "reversals", "hops", "neighbours".

    Example: asrlife edit facts embedded:lm --subject "Space Needle" --prompt "The Space Needle stands in" --target Taipei
    Example: asrlife edit facts FOLDER --file counterfact.json --most 50 --method memit --out memit.safetensors
    """
    with console.results_only():
        found = _loaded(model)
        requests = _requests((subject, prompt, target), phrasing or [], file, most)
        done = _made(found, requests, (method, layers, changes or []), (batch, premise.replace("\\n", "\n"), seed))
        completions = _asked(found, done, ask or [])
        if out is not None:
            _save(done, out)
        if report is not None:
            done.comparison.report().write(report)
    if as_json:
        console.emit(done.to_json() | {"asked": completions, "delta": None if out is None else str(out)})
    else:
        _show(done, completions, out)


def _loaded(name: str) -> TextModel:
    from asrlife.models.text import load_text

    return load_text(name)


def _requests(one: tuple[str | None, str | None, str | None], phrasings: list[str], file: Path | None, most: int) -> list[EditRequest]:
    from asrlife.data.edit import EditRequest
    from asrlife.data.editsets.read import read_requests
    from asrlife.errors import InputError

    subject, prompt, target = one
    if file is not None and one == (None, None, None) and not phrasings:
        return list(read_requests(file, console.warn)[:most])
    if file is None and subject and prompt and target:
        return [EditRequest(subject, prompt, target, phrasings=tuple(phrasings))]
    raise InputError("give one of these: --subject, --prompt and --target, or --file")


def _made(model: TextModel, requests: list[EditRequest], how: tuple[str, str | None, list[str]], run: tuple[int, str, int]) -> Done:
    from asrlife.methods.edit.registry import editor_of
    from asrlife.recipe.edit_facts.make import changed

    (method, layers, changes), (batch, premise, seed) = how, run
    settings = pairs(changes) | ({} if layers is None else {"layers": [part.strip() for part in layers.split(",")]})
    with console.progress("editing", len(requests)) as advance:
        return changed(model, requests, editor_of(method, settings), premise, batch=batch, seed=seed, advance=advance)


def _asked(model: TextModel, done: Done, prompts: list[str]) -> list[dict[str, str]]:
    from asrlife.delta.weights import applied

    before = model.complete(prompts)
    with applied(model.module, done.delta):
        after = model.complete(prompts)
    return [{"prompt": p, "before": b.strip(), "after": a.strip()} for p, b, a in zip(prompts, before, after, strict=True)]


def _save(done: Done, out: Path) -> None:
    from asrlife.delta import file

    file.save(done.delta, out)


def _show(done: Done, completions: list[dict[str, str]], out: Path | None) -> None:
    from asrlife.evaluate.report import show_table

    for row in completions:
        print(f"{row['prompt']}\n  before: {row['before']}\n  after:  {row['after']}")
    print(f"Layers {', '.join(map(str, done.layers))} were edited.")
    show_table(done.comparison.upright(), console.out())
    if done.comparison.forced:
        show_table(done.comparison.upright(forced=True), console.out())
    if out is not None:
        print(f"{out}: add, negate and apply it with `asrlife delta`")
