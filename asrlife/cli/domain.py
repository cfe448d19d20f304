"""asrlife domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.cli import console
from asrlife.cli import domain_options as takes
from asrlife.cli.options import AsJson, Fresh, Rank, Threads, pairs

if TYPE_CHECKING:
    from asrlife.recipe.domain.make import Done
    from asrlife.recipe.domain.plan import Domain

_LINES = 8  # of the account in the terminal; the report has all


def domain(
    text: takes.Text,
    name: takes.Name = None,
    model: takes.Model = "embedded:ctc-tts",
    out: takes.Out = None,
    voice: takes.Voice = None,
    test_voice: takes.TestVoice = None,
    clips: takes.Clips = 2,
    augment: takes.Augment = "",
    limit: takes.Limit = None,
    column: takes.Column = None,
    key: takes.Key = None,
    scope: takes.Scope = "full",
    rank: Rank = None,
    steps: takes.Steps = None,
    rate: takes.Rate = None,
    keep: takes.Keep = None,
    changes: takes.Changes = None,
    syn2real: takes.Syn2real = None,
    no_syn2real: takes.NoSyn2real = False,
    scale: takes.Scale = None,
    real: takes.Real = None,
    real_dev: takes.RealDev = None,
    general: takes.General = None,
    seed: takes.Seed = 0,
    workers: takes.Workers = None,
    threads: Threads = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Make a recogniser of a domain from its text.

    The text is read aloud by many voices, the model is fine-tuned on that, a
    Syn-to-Real vector is added where there is one for the model, and what came
    of it is judged beside the unadapted model: sentences and voices that were
    not learnt (reliability), real speech of the domain (generality), and
    speech of other domains (locality). Every line of the text is accounted
    for. domains/NAME gets delta.safetensors with its card, report.html,
    report.json and speech/listen.html.

    A run that was stopped, or killed, goes on with the same command and ends
    where it would have ended. Serve it with `asrlife serve --delta NAME`.

    Example: asrlife domain --text notes.txt --name cardiology --model embedded:ctc-tts
    Example: asrlife domain --text notes.jsonl --real ward.jsonl --real-dev ward.jsonl
    """
    from asrlife.errors import InputError
    from asrlife.recipe.domain.make import make

    if no_syn2real and syn2real is not None:
        raise InputError("--no-syn2real and --syn2real: give one of them")
    tune = {"scope": scope} | {k: v for k, v in {"rank": rank, "steps": steps, "rate": rate}.items() if v is not None}
    reading = {"clips": clips, "augment": _kinds(augment), "most": limit, "column": column, "key": key, "seed": seed}
    judging = {"real": real, "real_dev": real_dev, "general": general}
    adding = {"syn2real": syn2real, "vector": not no_syn2real, "scale": scale}
    with console.results_only():
        asked = _asked(text, name, out, model, (voice, test_voice), tune, (keep, changes), workers, {**reading, **judging, **adding})
        done = make(asked, _shown(threads), console.note, fresh)
    if as_json:
        console.emit(done.to_json())
    else:
        _tell(done)


def _asked(
    text: Path, name: str | None, out: Path | None, model: str, voices: tuple[list[str] | None, list[str] | None],
    tune: dict[str, Any], how: tuple[list[str] | None, list[str] | None], workers: int | None, more: dict[str, Any],
) -> Domain:  # fmt: skip
    from dataclasses import replace

    from asrlife.recipe.aloud import cores
    from asrlife.recipe.domain.names import DOMAINS, check_name
    from asrlife.recipe.domain.plan import KEEP, Cast, Domain

    given = {part: tuple(found) for part, found in zip(("train", "test"), voices, strict=True) if found}
    folder = out or DOMAINS / check_name(name or text.stem)
    keep = KEEP if how[0] is None else tuple(one for one in how[0] if one != "none")
    cast = replace(Cast(), **given).expanded()
    return Domain(text, folder, model, cast, tune=tune | pairs(how[1] or []), keep=keep, workers=workers or cores(), **more)


def _kinds(augment: str) -> tuple[str, ...]:
    from asrlife.data.augmentation import KINDS

    return KINDS if augment == "all" else tuple(kind.strip() for kind in augment.split(",") if kind.strip())


def _shown(threads: int | None) -> Any:
    import torch

    from asrlife.cli.tune import Shown

    if threads is not None:
        torch.set_num_threads(threads)
    return Shown()


def _tell(done: Done) -> None:
    from asrlife.evaluate.report import show_table
    from asrlife.recipe.domain.names import DOMAINS
    from asrlife.recipe.domain.report import NO_REAL, entities, rates, verdicts

    _lines(done)
    for table in (rates(done.judged), *entities(done.judged)):
        show_table(table, console.out())
    for line in verdicts(done.judged):
        print(line)
    if done.judged.trial("generality") is None:
        print(f"generality: not measured: {NO_REAL}")
    print(f"report: {done.report}")
    name = done.name if done.delta.parent == DOMAINS / done.name else done.delta
    print(f"serve it: asrlife serve --model {done.model} --delta {name}")


def _lines(done: Done) -> None:
    """The lines of the text of which something was left out, the first few of them."""
    fates = [fate for fate in done.speech.prepared.fates if fate.verdict == "left out"]
    for fate in fates[:_LINES]:
        console.note(f"  line {fate.line} left out: {'; '.join(fate.why)}")
    if len(fates) > _LINES:
        console.note(f"  ... and {len(fates) - _LINES} more, all in {done.speech.manifest.parent / 'lines.tsv'}")
    for plan, why in done.speech.failures[:_LINES]:
        console.warn(f"line {plan.line}: {why}; not read")
