"""asrlife tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.cli import console
from asrlife.cli import tune_options as takes
from asrlife.cli.options import AsJson, Fresh, Rank, Threads, pairs

if TYPE_CHECKING:
    from asrlife.recipe.tuning import Made


def tune(
    model: takes.Model,
    train: takes.Train,
    out: takes.Out,
    dev: takes.Dev = None,
    test: takes.Test = None,
    scope: takes.Scope = "full",
    rank: Rank = None,
    steps: takes.Steps = None,
    epochs: takes.Epochs = None,
    rate: takes.Rate = None,
    batch_seconds: takes.BatchSeconds = None,
    keep: takes.Keep = None,
    changes: takes.Changes = None,
    train_split: takes.TrainSplit = None,
    dev_split: takes.DevSplit = None,
    test_split: takes.TestSplit = None,
    limit: takes.Limit = None,
    seed: takes.Seed = None,
    resume: takes.Resume = None,
    fresh: Fresh = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a recogniser or a language model; what moved is a delta file.

    The model itself stays as it is. Use the delta with `asrlife evaluate
    --delta`, `asrlife serve --delta`, or apply it for good with `asrlife delta
    apply`. With --dev the weights that count are the best ones met, the
    model's own among them; without it the last ones. An utterance that cannot
    be used (no text, letters that the model does not have) is named with its
    line and left out; exit code 2 when none can be used.

    \b
    --keep holds the model to what it knew:
      l2sp:0.01                      weights stay near where they were
      ewc:10000;data=old.jsonl       ... those most that old data needs (Fisher)
      mas:1;data=old.jsonl           ... those most that outputs depend on
      replay:0.2;data=old.jsonl      20 % of each batch is old data
      lwf:1;temperature=2            outputs stay near those of the model

    A run that was stopped, or killed, goes on with the same command and ends
    where it would have ended. --set takes: warmup, schedule (cosine, linear,
    constant), decay, clip, accumulate, batch_tokens, mask_time, mask_features,
    mask_span (SpecAugment), dropout, speed, noise, precision (no, bf16),
    metric (wer, loss), every, patience, without.

    Example: asrlife tune embedded:ctc --train new.jsonl --dev dev.jsonl --out new.safetensors
    Example: asrlife tune embedded:whisper --train new.jsonl --out n.safetensors --scope lora --keep lwf:1
    """  # noqa: D301 # \b keeps the lines of the table
    given = {"rank": rank, "steps": steps, "epochs": epochs, "rate": rate, "batch_seconds": batch_seconds, "seed": seed}
    settings = {"scope": scope} | {name: value for name, value in given.items() if value is not None} | pairs(changes or [])
    with console.results_only():
        done = _made(
            model, [(train, train_split, limit), (dev, dev_split, None), (test, test_split, None)], settings, tuple(keep or ()),
            (out, resume, fresh, threads),
        )  # fmt: skip
    for problem in done.problems:
        console.warn(problem)
    if as_json:
        console.emit(done.to_json())
    else:
        print(_line(done))


def _made(
    model: str, sets: list[tuple[Path | None, str | None, int | None]], settings: dict[str, Any], keep: tuple[str, ...],
    how: tuple[Path, Path | None, bool, int | None],
) -> Made:  # fmt: skip
    import torch

    from asrlife.recipe.tuning import Order, Source, made, settings_of

    out, resume, fresh, threads = how
    if threads is not None:
        torch.set_num_threads(threads)
    train, dev, test = (None if path is None else Source(path, split, limit) for path, split, limit in sets)
    assert train is not None
    return made(Order(model, train, settings_of(settings), dev, test, keep), out, Shown(), resume, fresh)


def _line(done: Made) -> str:
    """What came of it, in one line."""
    note, parts = done.delta.note, [str(done.path)]
    scores = note["scores"]
    if "dev_wer" in scores:
        parts.append(f"dev WER {_percent(scores['dev_wer']['before'])} to {_percent(scores['dev_wer']['after'])} %")
    elif "dev_loss" in scores:
        parts.append(f"dev loss {scores['dev_loss']['before']:.3f} to {scores['dev_loss']['after']:.3f}")
    if done.test is not None and "wer" in done.test:
        rates, change = done.test["wer"], done.test["difference"]
        bounds = f"{100 * change['value']:+.1f} points, {100 * change['low']:+.1f} to {100 * change['high']:+.1f}"
        parts.append(f"test WER {_percent(rates['before']['value'])} to {_percent(rates['after']['value'])} % ({bounds})")
    elif done.test is not None:
        parts.append(f"test perplexity {done.test['perplexity']['before']:.3f} to {done.test['perplexity']['after']:.3f}")
    parts.append(f"step {scores['best_step']} of {scores['steps']}" + (f" ({scores['stopped']})" if scores["stopped"] else ""))
    parts.append("was there already" if done.kept else f"{note['seconds']:.0f} s")
    return "; ".join(parts)


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f}"


class Shown:
    """Bars on a terminal, with losses and scores beside them, and a line for each stage elsewhere."""

    def __init__(self) -> None:
        self._tell: Callable[[str], None] = lambda text: None

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A bar of its own."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        err = console.err()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[told]}"), console=err, disable=not err.is_terminal, transient=True) as bar:
            identifier = bar.add_task(name, total=total, told="")
            self._tell = lambda text: bar.update(identifier, told=text)
            yield lambda: bar.advance(identifier)

    def tell(self, text: str) -> None:
        """Losses and scores, beside the bar."""
        self._tell(text)
