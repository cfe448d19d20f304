"""What a recogniser can regret without knowing the words: unsure frames and classes mistaken for one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of each utterance of a batch, all (batch,); `spoken` says where any frame is not blank.

    `blend` is the published sum, in which an utterance without a spoken frame has no entropy but keeps its confusion.
    """

    entropy: Tensor
    confusion: Tensor
    blend: Tensor
    spoken: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised: `blend`, and zero with zero gradient for an utterance in which nothing is heard."""
        return torch.where(self.spoken, self.blend, torch.zeros_like(self.blend))


def suta(logits: Tensor, lengths: Tensor, blank: int | None, temperature: float = 2.5, em_weight: float = 0.3) -> Losses:
    """em_weight * EM + (1 - em_weight) * MCC of raw `logits` (batch, steps, classes), of which `lengths` (batch,) steps are valid.

    With p = softmax(logits / temperature) and H its entropy in nats, EM is the mean of H over the steps whose best class is not `blank`
    (None: over all steps), and MCC = 1 - mean over classes i of C_ii / sum_j C_ij, where C = sum_t w_t p_t p_t' and w = 1 + exp(-H)
    without gradient. As sum_j p_tj = 1, the row sums are sum_t w_t p_ti, so that C, which has classes^2 entries, is never made.
    arXiv 2203.14222, section 2.
    """
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths.to(logits.device)[:, None]
    logs = torch.log_softmax(logits / temperature, dim=-1)
    likely = logs.exp()
    entropies = -(likely * logs).sum(-1)
    heard = valid if blank is None else valid & (logits.argmax(-1) != blank)
    entropy = (entropies * heard).sum(1) / heard.sum(1).clamp_min(1)
    confusion = _confusion(likely, (1 + torch.exp(-entropies.detach())) * valid)
    return Losses(entropy, confusion, em_weight * entropy + (1 - em_weight) * confusion, heard.any(1))


def _confusion(likely: Tensor, weights: Tensor) -> Tensor:
    weighted = likely * weights[..., None]
    rows = weighted.sum(1)
    return 1 - ((weighted * likely).sum(1) / rows.clamp_min(_TINY)).mean(-1)
