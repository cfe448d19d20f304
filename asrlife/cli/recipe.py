"""asrlife recipe list, asrlife recipe run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

_HELP = "Experiments written down as YAML: see the list, run one.\n\nExample: asrlife recipe run noisy_stream --tiny"
app = typer.Typer(no_args_is_help=True, help=_HELP, rich_markup_mode="rich")


@app.command("list")
def listing(as_json: AsJson = False) -> None:
    """Name the recipes that come with asrlife.

    Example: asrlife recipe list
    """
    from asrlife.errors import InputError
    from asrlife.recipe.recipe import available, read

    found = []
    for name, path in available().items():
        try:
            found.append({"name": name, "description": read(path).description, "path": str(path)})
        except InputError as error:
            console.warn(str(error))
    if as_json:
        console.emit({"recipes": found})
    else:
        _show(found)


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A name of `asrlife recipe list`, or the path of a recipe.yaml.")],
    tiny: Annotated[bool, typer.Option("--tiny", help="Use the recipe's small settings: a run of a minute that shows it works.")] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="A setting of every step that has it; STEP.K=V of one.")
    ] = None,
    steps: Annotated[list[str] | None, typer.Option("--step", metavar="NAME", help="Only this step; repeat it for several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: runs/NAME (runs/NAME-tiny with --tiny).")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe.

    Example: asrlife recipe run noisy_stream --tiny --set evaluate.snr=5
    """
    from asrlife.recipe.recipe import find, only, read
    from asrlife.recipe.run import run as run_recipe

    recipe = only(read(find(name), tiny, changes or ()), steps or ())
    folder = out or Path("runs") / (recipe.name + "-tiny" * tiny)
    with console.results_only():
        results = run_recipe(recipe, folder, console.progress, console.err().is_terminal)
    if as_json:
        console.emit(results)
    else:
        for step, found in results["steps"].items():
            _show_step(step, found)
        print(f"results: {folder / 'results.json'}")


def _show(found: list[dict[str, str]]) -> None:
    from rich.table import Table

    table = Table("recipe", "what it does", box=None, padding=(0, 2, 0, 0))
    for row in found:
        table.add_row(row["name"], row["description"])
    console.out().print(table)


def _show_step(name: str, found: dict[str, Any]) -> None:
    console.out().print(f"[bold]{name}[/bold]")
    for key, value in found.items():
        if not isinstance(value, (dict, list)):
            console.out().print(f"  {key}: {value}", soft_wrap=True)
