"""asrlife synthesize."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.recipe.aloud import Made

_SHOWN = 20  # lines of the account in the terminal; the files have all


def synthesize(
    textfile: Annotated[Path, typer.Argument(help="UTF-8: a sentence a line, or .csv, .tsv, .jsonl.")],
    outdir: Annotated[Path, typer.Argument(help="Gets audio/*.flac (16 kHz), transcripts.jsonl, listen.html, lines.json, lines.tsv.")],
    voice: Annotated[
        list[str] | None,
        typer.Option(help="A voice, as en-us+f3, 'en-*', flite:slt; repeat it.", show_default="four English ones"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses voice, rate, pitch and augmentation of each clip.")] = 0,
    clips: Annotated[
        int, typer.Option(metavar="N", min=1, help="Readings of each sentence, by different voices while there are some.")
    ] = 1,
    rate: Annotated[str, typer.Option(metavar="A-B", help="Words a minute, drawn from this range.")] = "140-190",
    pitch: Annotated[str, typer.Option(metavar="A-B", help="Pitch, 0 to 99, drawn from this range.")] = "30-70",
    augment: Annotated[
        str, typer.Option(metavar="KINDS", help="all, or some of speed,noise,reverb,codec; each in half of all clips.")
    ] = "",
    noise: Annotated[str | None, typer.Option(metavar="PATH", help="Noise to mix in, a file or folder. Default: made noises.")] = None,
    room: Annotated[str | None, typer.Option(metavar="PATH", help="Impulse responses, a file or folder. Default: made rooms.")] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="The column of a table. Default: text, or the only one.")] = None,
    key: Annotated[str | None, typer.Option(metavar="NAME", help="The key of JSONL rows. Default: text.")] = None,
    language: Annotated[str, typer.Option(metavar="CODE", help="Language of the text: how numbers are said, which script it has.")] = "en",
    longest: Annotated[int, typer.Option(metavar="N", min=20, help="Characters of a sentence at most; longer ones are cut.")] = 200,
    model: Annotated[
        str | None, typer.Option(help="Keep transcripts to the letters of this recogniser; tell what it cannot spell.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N sentences.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes. Default: one for each core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a text file aloud, as training or test speech with a manifest.

    Numbers, dates and units are written out, lines split into sentences, and
    every line is accounted for in lines.json and lines.tsv: used, changed, or
    left out and why. listen.html plays the result.

    The same text, voices and seed give the same files, whatever --workers is.
    A second run keeps what is there and whole and makes what is missing.

    Voices: `asrlife info voices`. ENGINE:NAME is one of another engine than
    espeak-ng: flite:slt, festival:kal_diphone, speecht5:MODEL#SPEAKERS,
    bark:MODEL#PRESET, 'command:PROGRAM ... {text} ... {out}'.

    Example: asrlife synthesize notes.txt speech --voice 'en-*+f?' --clips 3 --augment all
    """
    from asrlife.data.augmentation import KINDS
    from asrlife.recipe.aloud import Wish, cores, synthesise
    from asrlife.recipe.speech import VOICES, Diversity
    from asrlife.text.prepare import Rules

    kinds = KINDS if augment == "all" else tuple(kind.strip() for kind in augment.split(",") if kind.strip())
    diversity = Diversity(clips, _range("--rate", rate, 80, 450), _range("--pitch", pitch, 0, 99), kinds, noise, room)
    wish = Wish(
        textfile, outdir, tuple(voice or VOICES), seed, diversity, Rules(language, longest), model, column, key, limit, workers or cores()
    )
    with console.results_only():
        made = synthesise(wish, console.progress)
    if as_json:
        console.emit({**made.to_json(), "seed": seed})
    else:
        _tell(made)


def _range(option: str, text: str, least: int, most: int) -> tuple[int, int]:
    from asrlife.errors import InputError

    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not least <= low <= high <= most:
        raise InputError(f"{option} is {text!r}; give a number or a range A-B within {least} to {most}")
    return low, high


def _tell(made: Made) -> None:
    from rich.table import Table
    from rich.text import Text

    counts = made.prepared.counts()
    noted = sorted((fate for fate in made.prepared.fates if fate.verdict != "used"), key=lambda fate: fate.verdict != "left out")
    if noted:
        table = Table("line", "", "why", "text", box=None, padding=(0, 2, 0, 0))
        for fate in noted[:_SHOWN]:
            table.add_row(str(fate.line), fate.verdict, Text("; ".join(fate.why)), Text(fate.excerpt[:40]))
        console.err().print(table)
        if len(noted) > _SHOWN:
            console.note(f"... and {len(noted) - _SHOWN} more in {made.manifest.parent / 'lines.tsv'}")
    console.note(f"{counts['lines']} lines: {counts['used']} used, {counts['changed']} changed, {counts['left out']} left out")
    for plan, why in made.failures[:_SHOWN]:
        console.warn(f"line {plan.line}: {why}; left out")
    console.note(f"listen: {made.page}")
    print(made.manifest)
