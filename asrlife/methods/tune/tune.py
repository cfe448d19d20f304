"""Fine-tuning as a function: a model and corpora in, a delta out, the model untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from asrlife.data.corpus import Corpus
from asrlife.delta.delta import Delta
from asrlife.errors import InputError
from asrlife.methods.tune.batches import batches_of
from asrlife.methods.tune.evidence import Evidence, check_apart, gathered
from asrlife.methods.tune.hold import Hold
from asrlife.methods.tune.keep import Keep
from asrlife.methods.tune.masking import Augment, masking
from asrlife.methods.tune.scope import factored, moving, selection
from asrlife.methods.tune.settings import Settings
from asrlife.methods.tune.task import Change, Task, task_of
from asrlife.methods.tune.train import Loop, Standing
from asrlife.methods.tune.watch import Quiet, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator

    from asrlife.models.handle import Recogniser
    from asrlife.models.text import TextModel

QUIET = Quiet()


@dataclass(frozen=True, eq=False)
class Tuned:
    """What tuning gave: the delta with its card, the scores on the way, why it ended early, and what was wrong with the data, by line."""

    delta: Delta
    history: tuple[Mapping[str, Any], ...]
    best_step: int
    stopped: str
    problems: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Data:
    """The sets of a run, apart from each other."""

    train: Evidence
    dev: Evidence | None
    test: Evidence | None

    @classmethod
    def of(cls, task: Task, train: Corpus, dev: Corpus | None, test: Corpus | None, watch: Watch) -> Data:
        """Read all of them; raises InputError where two share an utterance, or nothing of one can be used."""
        sets = {"train": train, "dev": dev, "test": test}
        with watch.stage("reading", sum(len(corpus) for corpus in sets.values() if corpus is not None)) as advance:
            found = {name: None if corpus is None else gathered(task, corpus, name, advance) for name, corpus in sets.items()}
        check_apart(*found.values())
        assert found["train"] is not None
        return cls(found["train"], found["dev"], found["test"])

    @property
    def problems(self) -> tuple[str, ...]:
        """Of all sets."""
        return tuple(problem for each in (self.train, self.dev, self.test) if each is not None for problem in each.problems)

    def told(self) -> dict[str, Any]:
        """For the card."""
        sets = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: each.told() for name, each in sets.items() if each is not None}


def tune(
    model: Recogniser | TextModel, train: Corpus, dev: Corpus | None = None, settings: Settings = Settings(), *, keep: Sequence[Keep] = (),
    test: Corpus | None = None, resume: Path | None = None, change: Change | None = None, watch: Watch = QUIET,
) -> Tuned:  # fmt: skip
    """Fine-tune `model` on `train` and return what moved as a delta; the model itself is as it was, bit for bit.

    Of the weights met on the way those count that score best on `dev`, the base's own among them; without `dev` the last ones do. `test` is
    read only to be sure that nothing of it is in the other two. `keep` holds the model to what it knew. `change` alters each utterance
    when it is drawn, in place of the settings' speed and noise. `resume` is a checkpoint file: a run that was killed at any
    moment goes on from it and ends, on a CPU, with the same bits as one that was left alone.
    Raises InputError for sets that share ids or sounds, nothing to learn from, a scope that the model does not have, a checkpoint of
    another run, and gradients that are never finite.
    """
    task = task_of(model)
    names = selection(model.module, settings.scope, settings.without, settings.rank)
    data = Data.of(task, train, dev, test, watch)
    base = model.fingerprint()
    run: dict[str, Any] = {"base": base, "data": {name: told["fingerprint"] for name, told in data.told().items()}}
    run |= {"settings": asdict(settings), "keep": [each.told() for each in keep]}
    with accelerated(settings) as accelerator, placed(model.module, accelerator.device):
        holds = _prepared(task, names, keep, data, watch)
        standing, changes = _trained(task, names, data, settings, holds, change, accelerator, watch, run, resume)
    note = _note(model, data, settings, keep, standing, names)
    problems = data.problems + tuple(problem for hold in holds for problem in hold.problems)
    return Tuned(Delta(base, changes, note), tuple(standing.history), standing.best_step, standing.stopped, problems)


def _prepared(task: Task, names: Sequence[str], keep: Sequence[Keep], data: Data, watch: Watch) -> list[Hold]:
    holds = []
    for each in keep:
        with watch.stage(each.name, None) as advance:
            holds.append(each.prepare(task, names, advance))
    for hold in holds:
        check_apart(data.dev, getattr(hold, "evidence", None))
        check_apart(data.test, getattr(hold, "evidence", None))
    if sum(hold.share for hold in holds) >= 1:
        raise InputError("replay: the shares add up to 1 or more: leave some of each batch for what is new")
    return holds


def _trained(
    task: Task, names: Sequence[str], data: Data, settings: Settings, holds: Sequence[Hold], change: Change | None,
    accelerator: Accelerator, watch: Watch, run: Mapping[str, Any], resume: Path | None,
) -> tuple[Standing, Mapping[str, Any]]:  # fmt: skip
    module, augment = task.model.module, Augment(settings.speed, settings.noise)
    rank = settings.rank if factored(settings.scope) else None
    with ExitStack() as stack:
        stack.enter_context(masking(module, settings))
        live = stack.enter_context(moving(module, names, rank, settings.seed))
        steps = settings.steps or _steps(task, data, settings, holds)
        loop = Loop(
            task, live, data.train.items, data.dev, settings, steps, holds, change or (None if augment.idle else augment),
            accelerator, watch, run, resume,
        )  # fmt: skip
        standing, best = loop()
        return standing, live.changes(best)


def _steps(task: Task, data: Data, settings: Settings, holds: Sequence[Hold]) -> int:
    size = settings.batch_seconds if task.unit == "s" else float(settings.batch_tokens)
    count = batches_of(data.train.items, size * (1 - sum(hold.share for hold in holds)), settings.seed, settings.epochs)
    return max(1, -(-count // settings.accumulate))


def _note(
    model: Any, data: Data, settings: Settings, keep: Sequence[Keep], standing: Standing, names: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """The card: what it was made of, how, and what came of it."""
    first, best = standing.history[0], next(line for line in standing.history if line["step"] == standing.best_step)
    scores = {key: {"before": first[key], "after": best[key]} for key in best if key.startswith("dev_")}
    told = {"best_step": standing.best_step, "steps": standing.step, "stopped": standing.stopped, "skipped": standing.skipped}
    return {
        "method": "tune", "of": model.name, "evidence": data.told(), "seed": settings.seed, "scores": scores | told,
        "settings": asdict(settings) | {"without": list(settings.without)}, "keep": [each.told() for each in keep],
        "tensors": len(names), "history": standing.history, "seconds": round(standing.seconds, 3),
    }  # fmt: skip


@contextmanager
def accelerated(settings: Settings) -> Iterator[Accelerator]:
    """accelerate's device, mixed precision and accumulation; what it keeps for the whole process goes again, where nobody had it before."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    ours = AcceleratorState._shared_state == {}
    try:
        accelerator = Accelerator(mixed_precision=settings.precision, gradient_accumulation_steps=settings.accumulate)
    except ValueError as error:
        raise InputError(f"tune: precision: {error}") from error
    try:
        if accelerator.num_processes > 1:
            raise InputError(f"tuning runs in one process, not in {accelerator.num_processes}: start it without `accelerate launch`")
        yield accelerator
    finally:
        if ours:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


@contextmanager
def placed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module on another device for a while."""
    before = next(module.parameters()).device
    try:
        module.to(device)
        yield
    finally:
        module.to(before)
