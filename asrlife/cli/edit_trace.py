"""asrlife edit trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson

if TYPE_CHECKING:
    from asrlife.evaluate.report import Table
    from asrlife.models.text import TextModel


@dataclass(frozen=True)
class _Asked:
    """What to restore, and how."""

    kinds: tuple[str, ...]
    window: int | None
    samples: int | None
    noise: float | None
    seed: int
    out: Path | None


@dataclass(frozen=True)
class _Told:
    """What came of it: lines and tables to print, and the document of --json."""

    lines: Sequence[str]
    tables: Sequence[Table]
    document: dict[str, Any]


def trace(
    model: Annotated[str, typer.Argument(help="A language model or a Whisper recogniser: embedded:NAME, a folder, or a hub id.")],
    prompt: Annotated[str | None, typer.Option(help="A text that the language model is to go on with.")] = None,
    subject: Annotated[str | None, typer.Option(help="Who or what --prompt is about: a part of it.")] = None,
    world: Annotated[bool, typer.Option("--world", help="Average over facts of the closed world that embedded:lm knows.")] = False,
    facts: Annotated[int, typer.Option(metavar="N", min=1, help="At most N facts of --world.")] = 40,
    split: Annotated[str, typer.Option(help="Of --world: edit_dev to choose settings on, edit to report, hold.")] = "edit_dev",
    audio: Annotated[Path | None, typer.Option(metavar="FILE", help="A recording for a Whisper recogniser.")] = None,
    word: Annotated[str | None, typer.Option(help="A word that the recogniser hears in --audio.")] = None,
    nth: Annotated[int, typer.Option(metavar="N", min=1, help="The Nth time that --word is heard.")] = 1,
    kind: Annotated[
        list[str] | None, typer.Option(help="states, feed-forward, attention; encoder, decoder, feed-forward, cross-attention. Repeat it.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, show_default="a fifth", help="Layers restored together, but for whole states.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, show_default="10, 5 for sound", help="Draws of the noise.")] = None,
    noise: Annotated[float | None, typer.Option(show_default="3 deviations", help="Standard deviation of the noise.")] = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Decides the noise.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Heat maps as PNG, trace.json beside them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find where a model keeps a fact or a word: causal tracing.

    The model runs three times: clean, with noise on the subject (or on the
    sound of the word), and with noise but one clean state put back. What that
    brings back of the answer's probability is the effect of the state.

    Tokens are the rows, layers the columns; * marks what had noise. In a
    recogniser the encoder's rows are parts of the sound: all before the word,
    the word, all after it, and windows of 0.1 s near it.

    Example: asrlife edit trace embedded:lm --prompt "The Space Needle stands in" --subject "Space Needle"
    Example: asrlife edit trace embedded:lm --world --facts 40 --out traces
    Example: asrlife edit trace embedded:whisper --audio speech.wav --word kitchen --out traces
    """
    asked = _Asked(tuple(kind or ()), window, samples, noise, seed, out)
    with console.results_only():
        told = _traced(model, (prompt, subject), (world, facts, split), (audio, word, nth), asked)
    if out is not None:
        _keep(out / "trace.json", told.document)
    if as_json:
        console.emit(told.document)
        return
    from asrlife.evaluate.report import show_table

    for line in (*told.lines, "Points of probability that a restored state brings back:"):
        print(line)
    for table in told.tables:
        show_table(table, console.out())


def _traced(
    name: str, of_prompt: tuple[str | None, str | None], of_world: tuple[bool, int, str], of_sound: tuple[Path | None, str | None, int],
    asked: _Asked,
) -> _Told:  # fmt: skip
    from asrlife.errors import InputError

    (prompt, subject), (audio, word, nth) = of_prompt, of_sound
    if [prompt is not None, of_world[0], audio is not None].count(True) == 1 and (prompt is None) == (subject is None):
        if prompt is not None and subject is not None and word is None:
            return _prompt(name, prompt, subject, asked)
        if of_world[0] and word is None:
            return _world(name, *of_world[1:], asked)
        if audio is not None and word is not None:
            return _sound(name, audio, word, nth, asked)
    raise InputError("give one of these: --prompt and --subject, or --world, or --audio and --word")


def _kinds(asked: _Asked, known: Sequence[str]) -> tuple[Any, ...]:
    from asrlife.errors import InputError

    for kind in asked.kinds:
        if kind not in known:
            raise InputError(f"--kind {kind}: here it is one of {', '.join(known)}")
    return tuple(dict.fromkeys(asked.kinds)) or tuple(known)


def _language_model(name: str, asked: _Asked) -> tuple[TextModel, tuple[Any, ...], int, int, int]:
    """The model, kinds, its number of layers, the window and the number of samples."""
    from asrlife.methods.edit.sites import blocks_of
    from asrlife.methods.edit.tracing import KINDS, fifth
    from asrlife.models.text import load_text

    kinds = _kinds(asked, KINDS)
    model = load_text(name)
    layers = len(blocks_of(model.module)[1])
    return model, kinds, layers, asked.window or fifth(layers), asked.samples or 10


def _prompt(name: str, prompt: str, subject: str, asked: _Asked) -> _Told:
    from asrlife.evaluate.tracing import WHOLE, prompt_table
    from asrlife.evaluate.tracing_pictures import prompt_picture
    from asrlife.methods.edit.tracing import blur, trace

    model, kinds, layers, window, samples = _language_model(name, asked)
    noise = blur(model, [subject]) if asked.noise is None else asked.noise
    traces = []
    with console.progress("tracing", layers * len(kinds)) as advance:
        for kind in kinds:
            traces.append(trace(model, prompt, subject, noise, kind, 1 if kind in WHOLE else window, samples, asked.seed, advance))
    if asked.out is not None:
        prompt_picture(traces, asked.out / "trace.png", window)
    first = traces[0]
    line = f"P({first.answer}) is {first.clean:.4f} clean and {first.corrupted:.4f} with noise of {noise:.3g} on {subject!r}."
    document = {"model": name, "prompt": prompt, "noise": noise, "window": window, "samples": samples, "seed": asked.seed}
    return _Told([line], [prompt_table(one, window) for one in traces], {**document, "traces": [one.to_json() for one in traces]})


def _world(name: str, most: int, split: str, asked: _Asked) -> _Told:
    from asrlife.data.world.facts import make
    from asrlife.errors import InputError
    from asrlife.evaluate.tracing import WHOLE, average, known
    from asrlife.evaluate.tracing_pictures import mean_picture
    from asrlife.methods.edit.tracing import blur

    if split not in {"edit", "edit_dev", "hold"}:
        raise InputError(f"--split {split}: it is edit, edit_dev or hold")
    model, kinds, layers, window, samples = _language_model(name, asked)
    some = make().split(split)[:most]  # type: ignore[arg-type]
    requests = known(model, some)
    noise = blur(model, [request.subject for request in requests]) if asked.noise is None else asked.noise
    averages = []
    with console.progress("tracing", len(requests) * len(kinds)) as advance:
        for kind in kinds:
            averages.append(average(model, requests, kind, 1 if kind in WHOLE else window, samples, asked.seed, noise, advance))
    if asked.out is not None:
        mean_picture(averages, asked.out / "traces.png")
    total = averages[0].total
    bounds = f"{100 * total.mean:.1f} points, 95 % interval {100 * total.low:.1f} to {100 * total.high:.1f}"
    lines = [f"{len(requests)} of {len(some)} facts are known and traced.", f"Noise of {noise:.3g} on the subject costs {bounds}."]
    document = {"model": name, "split": split, "noise": noise, "window": window, "samples": samples, "seed": asked.seed}
    return _Told(lines, [one.table() for one in averages], {**document, "averages": [one.to_json() for one in averages]})


def _sound(name: str, path: Path, word: str, nth: int, asked: _Asked) -> _Told:
    from asrlife.audio.read import read
    from asrlife.errors import InputError
    from asrlife.evaluate.tracing import word_tables
    from asrlife.evaluate.tracing_pictures import word_picture
    from asrlife.methods.edit.audio_tracing import PARTS, trace_word
    from asrlife.methods.edit.tracing import fifth
    from asrlife.models.load import load
    from asrlife.models.whisper import WhisperRecogniser

    parts, waveform, model = _kinds(asked, PARTS), read(path), load(name)
    if not isinstance(model, WhisperRecogniser):
        raise InputError(f"{name} has no decoder to trace: give a Whisper recogniser, as in embedded:whisper")
    network: Any = model.module
    decoder, encoder = network.config.decoder_layers, network.config.encoder_layers
    window, samples = asked.window or fifth(decoder), asked.samples or 5
    with console.progress("tracing", sum(encoder if part == "encoder" else decoder for part in parts)) as advance:
        found = trace_word(
            model, waveform, word, nth=nth, parts=parts, noise=asked.noise, samples=samples, window=window, seed=asked.seed, advance=advance
        )
    if asked.out is not None:
        word_picture(found, asked.out / "trace.png", window)
    heard = f"{found.heard.word!r} in {found.heard.text!r}, noise of {found.noise:.3g} from {found.span[0]:.2f} to {found.span[1]:.2f} s."
    line = f"P({found.answer}) is {found.clean:.4f} clean and {found.corrupted:.4f} with noise."
    document = {"model": name, "audio": str(path), "window": window, "samples": samples, "seed": asked.seed}
    return _Told([heard, line], word_tables(found, window), {**document, "trace": found.to_json()})


def _keep(path: Path, document: dict[str, Any]) -> None:
    import json

    from asrlife.files import atomic

    with atomic(path, "w") as file:
        json.dump(document, file, indent=1, ensure_ascii=False, allow_nan=False)
