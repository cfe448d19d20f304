"""Evidence that a merge names beside its models: read, checked against the models, and handed to the method tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.roles import weight_norms
from asrlife.errors import InputError
from asrlife.methods.merge.layout import Source
from asrlife.methods.merge.names import counterpart
from asrlife.methods.merge.places import file
from asrlife.methods.merge.plan import Job, Plan
from asrlife.methods.merge.registry import METHODS
from asrlife.methods.merge.statistics import Statistics

Evidence = Callable[[Job], tuple[Tensor, ...]]
Print = Callable[[str], str]
"""The fingerprint of the files of a model by its name."""


def attached(plan: Plan, fingerprint: Print) -> Evidence:
    """What gives a job's method the evidence of each expert, none where not every expert has any for that tensor.

    Reads every model that has evidence once, for its fingerprint. Raises InputError for a method that takes no evidence, a model
    without any where it is needed or others have it, a file of another kind, and one that was made for another model.
    """
    name = plan.config.merge_method
    wanted = METHODS[name].evidence
    named = {(source.model, source.evidence) for job in plan.jobs if job.kind != "copy" for source in job.experts}
    given = {(model, path) for model, path in named if path is not None}
    if wanted is None:
        if given:
            raise InputError(f"{name} goes by weights alone: leave the evidence of {min(given)[0]} out, or merge by fisher or regmean")
        return lambda job: ()
    lacking = sorted(model for model, path in named if path is None)
    if lacking and (METHODS[name].needs_evidence or given):
        raise InputError(f"{name}: {lacking[0]} has no evidence: {_command(lacking[0], wanted)}")
    if not given:
        logging.getLogger(__name__).warning("%s without evidence is the plain mean: %s", name, _command(min(named)[0], wanted))
        return lambda job: ()
    files = {path: Statistics.read(file(path, plan.beside, f"evidence of {model}")) for model, path in sorted(given)}
    for model, path in sorted(given):
        _check(name, model, path, files[path], fingerprint)
    return lambda job: _of(job, files)


def _check(method: str, model: str, path: str, found: Statistics, fingerprint: Print) -> None:
    wanted = METHODS[method].evidence
    if found.kind != wanted:
        raise InputError(f"{method}: {path} is {found.kind} and {method} goes by {wanted}: {_command(model, str(wanted))}")
    if fingerprint(model) not in found.fingerprints:
        raise InputError(
            f"{path} was made for {found.card.get('model')!r} ({', '.join(p[:12] for p in found.fingerprints)}), which is not "
            f"{model} ({fingerprint(model)[:12]}): {_command(model, str(wanted))}"
        )


def _command(model: str, kind: str) -> str:
    return (
        f"make it with `asrlife evidence {model} --kind {kind} --data DATA --out {Path(model.replace(':', '-')).name}.{kind}.safetensors` "
        "and name the file as `evidence` beside the model"
    )


def _of(job: Job, files: Mapping[str, Statistics]) -> tuple[Tensor, ...]:
    found = [_one(job, source, files[source.evidence]) for source in job.experts if source.evidence is not None]
    kept = tuple(tensor for tensor in found if tensor is not None)
    return kept if len(kept) == len(job.experts) else ()


def _one(job: Job, source: Source, found: Statistics) -> Tensor | None:
    name = source.name
    if job.kind == "pair":
        name = next((weight for ending, weight in _weights(source.name) if ending), name)
    key = counterpart(name, found.tensors)
    return None if key is None else found.tensors[key]


def _weights(gain: str) -> list[tuple[bool, str]]:
    """The name of the weight that the pair of the gain `gain` makes."""
    other = {"parametrizations.weight.original0": "parametrizations.weight.original1", "weight_g": "weight_v"}
    pairs = [weight_norms({gain, gain.removesuffix(one) + two}) for one, two in other.items() if gain.endswith(one)]
    return [(True, weight) for pair in pairs for weight in pair]


def prints(models: Mapping[str, Checkpoint]) -> Print:
    """Fingerprints of models, each read once and when first asked for."""
    known: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in known:
            known[name] = models[name].fingerprint()
        return known[name]

    return of
