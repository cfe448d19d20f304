"""What `asrlife merge` may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONFIG.yaml|NAME=PATH", help="A merge as mergekit writes it, or, with --expr, what its names stand for."),
]
Expr = Annotated[str, typer.Option("--expr", help="Sums, differences and multiples of names.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the new model, or a .safetensors file; nothing may be there yet.")]
Search = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=LOW:HIGH", help="Choose this setting by measuring merges on --data. Repeat it for several."),
]
NoSearch = Annotated[bool, typer.Option("--no-search", help="Merge at CONFIG.yaml's own settings, whatever its key search says.")]
Data = Annotated[Path | None, typer.Option(help="What --search measures on: a JSONL manifest, or text for a language model.")]
Split = Annotated[str | None, typer.Option(help="Of --data; dev where it has splits. Never test.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N items of --data.")]
Metric = Annotated[str | None, typer.Option(help="wer or perplexity: what a model of its kind is measured by unless given.")]
Probes = Annotated[int | None, typer.Option(min=4, help="Merges that --search may measure; 12 unless given.")]
Accumulate = Annotated[str, typer.Option(help="float32 or float64: what sums are taken in.")]
ShardSize = Annotated[float, typer.Option(min=0.001, help="GB of the largest file of weights.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of CONFIG.yaml; as many as torch takes unless given.")]
Check = Annotated[bool, typer.Option(help="Load the merged model and run it once before it counts.")]
Fingerprints = Annotated[bool, typer.Option(help="Put the inputs' fingerprints on the card of CONFIG.yaml: reads each once more.")]

HELP = """Merge models by a method, or add, subtract and scale their weights.

CONFIG.yaml is mergekit's: merge_method, models (or slices, or modules),
base_model, parameters as numbers, as lists over the layers, or by filters
on names; dtype, out_dtype, tokenizer, chat_template. More than mergekit's:
select (a role such as encoder, a regular expression, or {pattern, roles,
without, layers}), accumulate_dtype, seed, search, evidence and data. Models
are folders, here or beside the file, embedded:NAME, hub ids, or
MODEL+ADAPTER with a LoRA folder of peft.

\b
merge_method: ties
base_model: whisper-small
models:
  - {model: tuned-on-calls, parameters: {weight: 0.5, density: 0.2}}
  - {model: tuned-on-talks, parameters: {weight: [0.2, 0.8], density: 0.2}}
select: encoder
search: {data: dev.jsonl, parameters: {scale: [0, 1.5]}}

Data say what weights cannot: fisher, and regmean where it is given, go by
evidence: FILE beside each model, made by `asrlife evidence`; adamerging
learns a factor for each model and layer on data: a manifest (or
{manifest, split, limit}) without labels, with steps, rate, init, batch,
layerwise and spoken among its parameters.

\b
merge_method: fisher
models:
  - {model: tuned-on-calls, evidence: calls.fisher.safetensors}
  - {model: tuned-on-talks, evidence: talks.fisher.safetensors}

Tied tensors are merged once, weight-norm pairs as the weight they make,
BatchNorm statistics by what they counted; processor, tokenizer and
configuration go along. The result is loaded and run once, and
merge_card.json beside it says what it was made of.

With the key search, or --search, the merge is measured at several values
first, in memory, by WER or, for a language model, by perplexity: one
setting by golden section, several by CMA-ES. Settings of one model are
models.0.weight, or NAME.weight. The best is written, and a paired
bootstrap says whether it really beats the base, the default and the
runner-up. A file with the key is searched without a flag; --no-search
leaves that out. Probes are kept in OUT.probes.json and never made twice.

With --expr, weights are added, subtracted and scaled as it says.

A name is a folder, a .safetensors file or embedded:NAME, a delta file too;
one without NAME=PATH is the path itself. The factors of models must add up
to 1, so that the result is a model: differences of models may be added to
a model in any amount, and so may deltas.

Sums are taken in float32 as they are written: brackets first, then from
left to right, and each result is rounded once. What cannot be added
(counters, configuration, processor, tokenizer) comes from the first model,
and so do tensors that --match, --role and --layers leave out.
A merge that was interrupted goes on where it stopped.

Example: asrlife merge ties.yaml --out merged
Example: asrlife merge --expr "target_syn + 0.4 * (real - syn)" real=models/real --out merged
Example: asrlife merge --expr "a + s * (b - c)" --search s=0:1.2 --data dev.jsonl --out merged
"""
