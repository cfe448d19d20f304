"""What `asrlife domain` may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Text = Annotated[
    Path, typer.Option(metavar="FILE", help="What is said in the domain: a sentence a line, .csv, .tsv, or .jsonl with entities.")
]
Name = Annotated[str | None, typer.Option(help="What it is called.", show_default="that of FILE")]
Model = Annotated[str, typer.Option(help="The recogniser to start from: embedded:NAME, a local folder, or a hub id.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that gets all of it.", show_default="domains/NAME")]
Voice = Annotated[
    list[str] | None, typer.Option(help="Reads what is learnt, as en-us+f3, 'en-*'; repeat it.", show_default="eight English ones")
]
TestVoice = Annotated[list[str] | None, typer.Option(help="Reads the test and nothing else; repeat it.", show_default="three others")]
Clips = Annotated[int, typer.Option(metavar="N", min=1, help="Readings of each sentence that is learnt.")]
Augment = Annotated[str, typer.Option(metavar="KINDS", help="all, or some of speed,noise,reverb,codec, in what is learnt.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N sentences.")]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="The column of a table. Default: text, or the only one.")]
Key = Annotated[str | None, typer.Option(metavar="NAME", help="The key of JSONL rows. Default: text.")]
Scope = Annotated[str, typer.Option(help="What moves, as `asrlife tune --scope`: full, lora, norms, encoder ...")]
Steps = Annotated[int | None, typer.Option(min=1, show_default="200", help="Steps of the optimiser at most.")]
Rate = Annotated[float | None, typer.Option(show_default="3e-4", help="The peak learning rate; lora likes ten times more.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:V;K=V", show_default="l2sp:0.01", help="Against forgetting, as `asrlife tune --keep`; none for none."),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="K=V", help="Any setting of `asrlife tune`, as in epochs=5. Repeat it.")
]
Syn2real = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A Syn-to-Real vector of your own, a delta of this model.", show_default="the packaged one"),
]
NoSyn2real = Annotated[bool, typer.Option("--no-syn2real", help="Add no vector.")]
Scale = Annotated[
    float | None, typer.Option(metavar="S", help="How much of the vector.", show_default="chosen on --real-dev, or the card's, or 0.2")
]
Real = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Recordings of the domain (of splits: test), to judge on."),
]
RealDev = Annotated[Path | None, typer.Option(metavar="FILE", help="Others (of splits: dev), on which the scale is chosen.")]
General = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Speech of other domains (of splits: test), to judge on.", show_default="everyday commands, read aloud"
    ),
]
Seed = Annotated[int, typer.Option(metavar="S", help="Decides the parts, the voices of sentences, and tuning.")]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes that read aloud. Default: one for each core.")]
