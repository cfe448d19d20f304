"""asrlife transcribe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asrlife.cli import console
from asrlife.cli.options import AsJson, Changes, Model
from asrlife.errors import InputError

if TYPE_CHECKING:
    from asrlife.methods.online import Method
    from asrlife.models.handle import Recogniser

_PIECE = 20.0  # s; the attention of a longer piece would cost its square


def transcribe(
    audio: Annotated[list[Path], typer.Argument(help="Sound files of any format libsndfile reads, any rate.")],
    model: Model = "embedded:ctc",
    adapt: Annotated[
        str,
        typer.Option(
            help="none, suta (each file alone), dsuta or auto (carried from file to file, in order) ... (see `asrlife info methods`); "
            "default is what the model's card recommends."
        ),
    ] = "default",
    changes: Changes = None,
    delta: Annotated[
        Path | None, typer.Option(metavar="FILE|NAME", help="What `asrlife tune` left, or a domain: listen with the model moved by it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write down what is said in sound files.

    Prints the text, with the path before it when there are several files.
    Sound longer than 20 s, or than the model's window, is cut at pauses.
    A file that cannot be read is reported and the others are done:
    exit code 0, or 2 when none could be.

    Example: asrlife transcribe meeting.wav --model embedded:whisper --adapt suta --set steps=5
    """
    with console.results_only():
        results, problems = _transcribed(audio, (model, delta), adapt, changes or ())
    if as_json:
        console.emit({"results": results, "problems": problems})
    else:
        for result in results:
            print(f"{result['path']}\t{result['text']}" if len(audio) > 1 else result["text"])
    if not results:
        raise typer.Exit(2)


def _transcribed(
    paths: Sequence[Path], named: tuple[str, Path | None], adapt: str, changes: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    from asrlife.models.load import load
    from asrlife.recipe.adaptation import methods, settings_of
    from asrlife.recipe.domain.names import delta_of

    settings_of([adapt], changes)  # a wrong key should not wait for the model
    model = load(named[0], delta=delta_of(named[1]))
    ((label, method),) = methods([adapt], changes, model).items()
    state, results, problems = method.start(model), [], list[str]()
    with console.progress("transcribing", len(paths)) as advance:
        for path in paths:
            try:
                state, result = _one(model, method, state, path)
                results.append({**result, "adapt": label})
            except InputError as error:
                problems.append(str(error))
                console.fail(str(error))
            advance()
    return results, problems


def _one(model: Recogniser, method: Method, state: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    from asrlife.audio.read import read
    from asrlife.data.utterance import Utterance
    from asrlife.models.windows import split

    waveform = read(path)
    texts, words, events = [], list[dict[str, Any]](), list[dict[str, Any]]()
    for start, piece in split(waveform, min(_PIECE, getattr(model, "window", _PIECE))):
        hypothesis, state, told = method.step(model, state, Utterance(f"{path}@{start:.2f}", piece))
        texts.append(hypothesis.text)
        words += [asdict(replace(word, start=word.start + start, end=word.end + start)) for word in hypothesis.words]
        events += [{"kind": event.kind, **event.detail} for event in told]
    text = " ".join(text for text in texts if text)
    return state, {"path": str(path), "text": text, "words": words, "duration": waveform.duration, "events": events}
