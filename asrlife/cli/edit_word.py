"""asrlife edit word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson, Threads

if TYPE_CHECKING:
    from asrlife.recipe.wording import Done

_SHOWN = 5  # sentences that are heard otherwise


def word(
    model: Annotated[str, typer.Argument(help="The recogniser: embedded:NAME, a local folder or file, or a hub id; CTC or Whisper.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The delta, NAME.safetensors; its card lies beside it as NAME.json.")],
    audio: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A recording in which it is said. Repeat it.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="What is said in --audio, rightly spelt; one for each, or one for all.")
    ] = None,
    say: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A sentence to be read aloud by each --voice instead. Repeat it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--word", metavar="NAME", help="The word of the text that is taught; the rest stays.", show_default="all")
    ] = None,
    pronounced: Annotated[str, typer.Option(metavar="TEXT", help="What voices read for --word, as in 'shiv awn' for siobhan.")] = "",
    voice: Annotated[
        list[str] | None, typer.Option(help="Reads --say, as en-us+f3, 'en-*'; repeat it.", show_default="three English ones")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL of utterances whose words must stay.", show_default="everyday sentences read aloud"),
    ] = None,
    where: Annotated[str | None, typer.Option(help="mlp, head (CTC) or cross-attention (Whisper).", show_default="mlp")] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="The block that is edited.", show_default="the last one")] = None,
    ridge: Annotated[
        float | None, typer.Option(min=0, show_default="60", help="0: just what is wanted; more: less harm elsewhere.")
    ] = None,
    margin: Annotated[float | None, typer.Option(min=0, show_default="2", help="How much the right letters are to win by, nats.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Decides how voices read.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Teach a recogniser a name or a spelling from one or a few utterances.

    One linear layer moves by the least that makes the right letters win where
    they lose now, measured by what the layer does in other speech. A head
    wants a smaller --ridge, some 5. The model itself stays as it is; use the
    delta with `asrlife transcribe --delta`, `evaluate --delta` or `serve
    --delta`, and check with other voices that the word is there, and with
    other sentences that nothing else is gone: it often is, a little.

    Example: asrlife edit word embedded:ctc --audio a.wav --text "phoebe" --out p.safetensors
    Example: asrlife edit word embedded:ctc --say "call zoe" --word zoe --out z.safetensors
    """
    given = {"where": where, "layer": layer, "ridge": ridge, "margin": margin}
    settings = {key: value for key, value in given.items() if value is not None}
    with console.results_only():
        spoken = (tuple(say or ()), tuple(voice or ()), pronounced)
        done = _made((model, out, name, keep, seed), _paired(audio or [], text or []), spoken, settings, threads)
    if as_json:
        console.emit(done.to_json())
    else:
        _show(done)


def _paired(audio: list[Path], text: list[str]) -> tuple[tuple[Path, str], ...]:
    """Each recording with its text; raises InputError where their numbers do not fit."""
    from asrlife.errors import InputError

    if len(text) == 1 and audio:
        text = text * len(audio)
    if len(audio) != len(text):
        raise InputError(f"{len(audio)} recordings and {len(text)} texts: give --text once for all, or once for each --audio, in order")
    return tuple(zip(audio, text, strict=True))


def _made(
    of: tuple[str, Path, str | None, Path | None, int], recordings: tuple[tuple[Path, str], ...],
    spoken: tuple[tuple[str, ...], tuple[str, ...], str], settings: dict[str, Any], threads: int | None,
) -> Done:  # fmt: skip
    import torch

    from asrlife.audio.engines import expanded
    from asrlife.recipe.wording import VOICES, Order, made

    if threads is not None:
        torch.set_num_threads(threads)
    (model, out, name, keep, seed), (say, voices, pronounced) = of, spoken
    order = Order(model, out, name, recordings, say, tuple(expanded(voices)) or VOICES, pronounced, keep, settings, seed)
    with console.progress("hearing what must stay", None) as advance:
        return made(order, advance)


def _show(done: Done) -> None:
    for text, before, after in done.taught:
        print(f"{text}\n  before: {before}\n  after:  {after}")
    print(f"{done.path}: {done.moved} of {len(done.kept)} utterances that were to stay are heard otherwise")
    for before, after in [pair for pair in done.kept if pair[0] != pair[1]][:_SHOWN]:
        print(f"  {before}\n  {after}")
