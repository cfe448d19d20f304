"""What `asrlife tune` may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="embedded:NAME, a local folder or file, or a hub id: a recogniser or a language model.")]
Train = Annotated[
    Path, typer.Option(metavar="FILE", help='JSONL, one utterance a line: {"id", "audio", "text"}. Texts (.txt) for a language model.')
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="The delta, NAME.safetensors; its card lies beside it as NAME.json.")]
Dev = Annotated[Path | None, typer.Option(metavar="FILE", help="Chooses the best weights and ends the run early. Never the test set.")]
Test = Annotated[Path | None, typer.Option(metavar="FILE", help="Scored before and after, and used for nothing else.")]
Scope = Annotated[
    str, typer.Option(help="What moves: full, lora, norms, a role (encoder, decoder, cross-attention ...), or regex:PATTERN.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser; goes over --epochs.")]
Epochs = Annotated[int | None, typer.Option(min=1, show_default="10", help="Times over the training set.")]
Rate = Annotated[float | None, typer.Option(show_default="1e-4", help="The peak learning rate; lora likes ten times more.")]
BatchSeconds = Annotated[float | None, typer.Option(show_default="48", help="Sound in a batch, padding counted.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:V;K=V", help="Against forgetting: l2sp, ewc, mas, replay, lwf. Repeat it; they add up."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Any setting, as in accumulate=4, precision=bf16, mask_time=0.1. Repeat it."),
]
TrainSplit = Annotated[str | None, typer.Option(metavar="NAME", help='Only rows of --train with this "split".')]
DevSplit = Annotated[str | None, typer.Option(metavar="NAME", help="The same for --dev.")]
TestSplit = Annotated[str | None, typer.Option(metavar="NAME", help="The same for --test.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N utterances of --train.")]
Seed = Annotated[int | None, typer.Option(metavar="S", show_default="0", help="Decides order, masks, noise and factors.")]
Resume = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where the run keeps how far it is.", show_default="OUT.checkpoint.safetensors")
]
