"""Which of several hypotheses to believe, without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asrlife.models.handle import Emissions, Recogniser
from asrlife.text.hypothesis import Hypothesis


def confidence(emissions: Emissions) -> Tensor:
    """Mean over the valid steps of the best class's log-probability (nats), (batch,)."""
    logs = emissions.logits.detach().log_softmax(-1).amax(-1)
    valid = torch.arange(logs.shape[1], device=logs.device) < emissions.lengths.to(logs.device)[:, None]
    return (logs * valid).sum(1) / valid.sum(1).clamp_min(1)


def votes(model: Recogniser, judges: Sequence[Emissions], hypotheses: Sequence[Hypothesis]) -> list[float]:
    """The score of each hypothesis for one utterance: its mean log-likelihood per frame under the emissions of all judges.

    All CTC alignments count together. Sequence-to-sequence models score their own hypotheses alone.
    """
    if model.blank is None:
        return [hypothesis.score for hypothesis in hypotheses]
    blank = model.blank
    found: list[float] = torch.stack([_likelihoods(judge, hypotheses, blank) for judge in judges]).mean(0).tolist()
    return found


def average(before: Sequence[float], now: Sequence[float], memory: float) -> tuple[float, ...]:
    """Moving averages that keep `memory` of themselves; the first are what there is."""
    return tuple(memory * old + (1 - memory) * new for old, new in zip(before, now, strict=True)) if before else tuple(now)


def _likelihoods(emissions: Emissions, hypotheses: Sequence[Hypothesis], blank: int) -> Tensor:
    """log p(hypothesis | one utterance) per frame, (hypotheses,)."""
    logs = emissions.logits.detach()[0].log_softmax(-1)
    count, frames = len(hypotheses), int(emissions.lengths[0])
    targets = torch.tensor([token for hypothesis in hypotheses for token in hypothesis.tokens], device=logs.device)
    lengths = torch.tensor([len(hypothesis.tokens) for hypothesis in hypotheses])
    spread = logs[:frames, None].expand(-1, count, -1)
    return -F.ctc_loss(spread, targets, torch.full((count,), frames), lengths, blank, "none") / frames
