"""asrlife synthesize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson


def synthesize(
    textfile: Annotated[Path, typer.Argument(help="A UTF-8 file, one sentence a line; blank lines are left out.")],
    outdir: Annotated[Path, typer.Argument(help="Gets audio/*.flac (16 kHz) and transcripts.jsonl.")],
    voice: Annotated[
        list[str] | None,
        typer.Option(help="An espeak-ng voice, LANGUAGE or LANGUAGE+VARIANT; repeat it.", show_default="four English ones"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses voice, rate and pitch of each sentence.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read a text file aloud, as training or test speech with a manifest.

    The same text, voices and seed give the same files. A second run keeps
    what is there and makes what is missing.

    Languages: en-us, en, en-gb-x-rp, en-gb-scotland, en-029, en-us-nyc and
    en-gb-x-gbclan. Variants: f1 to f5, m1 to m8, klatt to klatt6, Alex, Andy,
    linda, steph, whisper and more. Where flite is installed: flite:slt,
    flite:rms, flite:awb, flite:kal16, flite:kal.

    Example: asrlife synthesize sentences.txt speech --voice en-us+f3 --voice en-gb-x-rp+m2 --seed 1
    """
    from asrlife.recipe.speech import VOICES, read_aloud, read_lines, readings

    plans = readings(read_lines(textfile), voice or VOICES, seed)
    with console.progress("reading aloud", len(plans)) as advance:
        manifest = read_aloud(plans, outdir, advance)
    if as_json:
        console.emit({"manifest": str(manifest), "utterances": len(plans), "voices": sorted({plan.voice for plan in plans}), "seed": seed})
    else:
        print(manifest)
