"""asrlife text complete, asrlife text evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.evaluate.text import Comparison

_HELP = "Language models: complete a prompt, and measure what a model knows of the closed world."
app = typer.Typer(no_args_is_help=True, help=f"{_HELP}\n\nExample: asrlife text evaluate embedded:lm", rich_markup_mode="rich")
Name = Annotated[str, typer.Argument(metavar="MODEL", help="embedded:lm, the folder of a causal language model, or a hub id.")]
Change = Annotated[Path | None, typer.Option(metavar="FILE", help="A delta of the model (.safetensors) to put on it first.")]
Scale = Annotated[float, typer.Option(metavar="S", help="How much of the delta.")]


@app.command("complete")
def complete(
    model: Name,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to go on from; each is completed by itself.")],
    delta: Change = None,
    scale: Scale = 1.0,
    most: Annotated[int, typer.Option(min=1, help="Tokens at most.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Complete prompts greedily.

    Example: asrlife text complete embedded:lm "The Space Needle stands in"
    """
    with console.results_only():
        from asrlife.models.text import load_text
        from asrlife.recipe.compare import placed, read

        found = load_text(model)
        with placed(found, None if delta is None else read(found, "delta", delta) * scale):
            texts = found.complete(prompts, most)
    if as_json:
        console.emit([{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, texts, strict=True)])
    else:
        for prompt, text in zip(prompts, texts, strict=True):
            print(prompt + (text if text[:1].isspace() else f" {text}"))


@app.command("evaluate")
def evaluate(
    model: Name = "embedded:lm",
    delta: Change = None,
    scale: Scale = 1.0,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="Questions of each kind at most, drawn by a fixed seed.")] = 200,
    world: Annotated[int, typer.Option(metavar="S", help="Seed of the closed world.")] = 0,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/report.html and DIR/report.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a language model on the closed world, free-running, on three axes.

    Reliability: facts in forms that training saw. Generality: forms that it
    never saw, reversals, one and two hops, instructions in combinations that
    it never saw. Locality: refusals, and perplexity. With --delta, the model
    without it stands beside it. In JSON, shares of right answers are
    fractions, and the teacher-forced figures stand beside them.

    Example: asrlife text evaluate embedded:lm --delta edit.safetensors --json
    """
    with console.results_only():
        comparison = _compared(model, delta, scale, most, world)
    page = None if report is None else comparison.report().write(report)
    if as_json:
        console.emit(comparison.to_json())
    else:
        comparison.report().show(console.out())
        if page is not None:
            print(f"report: {page}")


def _compared(name: str, delta: Path | None, scale: float, most: int, seed: int) -> Comparison:
    from asrlife.data.world.courses import course
    from asrlife.data.world.facts import make
    from asrlife.evaluate.text import Comparison, drawn, judge, world_probes
    from asrlife.models.text import load_text
    from asrlife.recipe.compare import placed, read

    model, world = load_text(name), make(seed)
    probes, texts = world_probes(world, most), [q.text for q in drawn(course("paraphrases", world, "test"), most)]
    verdicts = [judge(model, probes, texts, name, forced=True)]
    if delta is not None:
        with placed(model, read(model, "delta", delta) * scale):
            verdicts.append(judge(model, probes, texts, f"{delta.stem} x {scale:g}", forced=True))
    return Comparison("A language model on the closed world", tuple(verdicts), {"model": name, "world": f"seed {seed}"})
