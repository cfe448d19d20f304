"""Running statistics of BatchNorm recomputed on audio."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from asrlife.errors import InputError
from asrlife.methods.merge.repair.draft import Draft
from asrlife.methods.merge.repair.scales import calls, moments
from asrlife.methods.merge.subject import Subject


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """Every BatchNorm that keeps running statistics; InputError where there is none."""
    found: dict[str, nn.Module] = {
        name: part for name, part in module.named_modules() if isinstance(part, nn.BatchNorm1d) and part.track_running_stats
    }
    if not found:
        raise InputError(f"{type(module).__name__} has no BatchNorm, so that there is nothing to recompute: repair norms instead")
    return found


def refit(draft: Draft, shown: Subject, advance: Callable[[], None]) -> None:
    """Running mean and variance of every BatchNorm from all that it is given, one layer after the other as data run through them.

    mean = sum_t x_t / n and var = sum_t (x_t - mean)^2 / (n - 1) over all n frames, as torch counts them; `num_batches_tracked` is the
    number of utterances. A layer is measured when those before it are repaired: `advance` is called layers x examples times.
    """
    for name in calls(shown, layers(draft.module)):
        found = moments(shown, [name], advance, "in", last=True)[name]
        if found.count < 2:
            raise InputError(f"{name} has seen {found.count} frames: give more audio")
        draft.put(f"{name}.running_mean", found.mean)
        draft.put(f"{name}.running_var", found.variance * (found.count / (found.count - 1)))
        if f"{name}.num_batches_tracked" in dict(draft.module.named_buffers()):
            draft.put(f"{name}.num_batches_tracked", torch.tensor(len(shown)))
