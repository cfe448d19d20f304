from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrlife.methods.online.losses import suta


def lengths(logits: Tensor) -> Tensor:
    return torch.full((len(logits),), logits.shape[1])


def vectors() -> Tensor:
    values = np.random.RandomState(1234).randn(2, 50, 32) * 3
    values = values.astype(np.float32)
    values[:, ::3, 0] += 8
    return torch.tensor(values)


def confusion_with_matrix(logits: Tensor, temperature: float) -> Tensor:
    """The definition, class by class, for one utterance (steps, classes)."""
    p = (logits / temperature).softmax(-1)
    weights = 1 + torch.exp((p * p.log()).sum(-1)).detach()
    weights = len(p) * weights / weights.sum()
    matrix = (p * weights[:, None]).T @ p
    matrix = matrix / matrix.sum(1, keepdim=True)
    return (matrix.sum() - matrix.trace()) / logits.shape[1]


@pytest.mark.parametrize("sample", [0, 1])
def test_losses_and_gradient_are_those_of_the_published_code(reference: Path, sample: int) -> None:
    expected = json.loads((reference / "suta_loss_unit_vectors.json").read_text())[f"sample{sample}"]
    logits = vectors()[sample : sample + 1].requires_grad_()
    found = suta(logits, lengths(logits), blank=0)
    found.total.sum().backward()
    assert found.entropy.item() == pytest.approx(expected["em_nonblank"], abs=1e-6)
    assert found.confusion.item() == pytest.approx(expected["mcc_reweight"], abs=1e-6)
    assert found.total.item() == pytest.approx(expected["suta_total"], abs=1e-6)
    assert suta(logits, lengths(logits), blank=None).entropy.item() == pytest.approx(expected["em_all"], abs=1e-6)
    gradient = logits.grad
    assert gradient is not None
    assert gradient.abs().sum().item() == pytest.approx(expected["grad_abs_sum"], abs=1e-6)
    # the first step is a blank one; what was kept is the second
    np.testing.assert_allclose(gradient[0, 1, :5], expected["grad_first5"], rtol=0, atol=1e-9)


def test_a_batch_of_the_published_code_is_the_mean_of_its_rows(reference: Path) -> None:
    expected = json.loads((reference / "suta_loss_unit_vectors.json").read_text())
    counts = torch.tensor([expected[f"sample{row}"]["n_nonblank"] for row in (0, 1)])
    found = suta(vectors(), torch.tensor([50, 50]), blank=0)
    assert ((found.entropy * counts).sum() / counts.sum()).item() == pytest.approx(expected["batch2"]["em"], abs=1e-6)
    assert found.confusion.mean().item() == pytest.approx(expected["batch2"]["mcc"], abs=1e-6)


def test_two_even_classes_by_hand() -> None:
    # p = (1/2, 1/2): entropy ln 2; every entry of the class matrix is equal, so half of each row is off the diagonal
    found = suta(torch.zeros(1, 3, 2), torch.tensor([3]), blank=None)
    assert found.entropy.item() == pytest.approx(math.log(2))
    assert found.confusion.item() == pytest.approx(0.5)
    assert found.total.item() == pytest.approx(0.3 * math.log(2) + 0.7 * 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 9), st.floats(0.5, 5))
def test_confusion_equals_its_definition_with_the_whole_matrix(seed: int, steps: int, classes: int, temperature: float) -> None:
    logits = torch.randn(1, steps, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    found, naive = suta(logits, lengths(logits), None, temperature).confusion[0], confusion_with_matrix(logits[0], temperature)
    torch.testing.assert_close(found, naive, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], torch.autograd.grad(naive, logits)[0], rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_rows_of_a_padded_batch_are_alone(seed: int, sizes: list[int]) -> None:
    noise = torch.Generator().manual_seed(seed)
    padded = torch.randn(len(sizes), max(sizes) + 2, 6, generator=noise) * 4
    batched = suta(padded, torch.tensor(sizes), blank=0)
    for row, size in enumerate(sizes):
        alone = suta(padded[row : row + 1, :size], torch.tensor([size]), blank=0)
        for name in ("entropy", "confusion", "blend", "total"):
            torch.testing.assert_close(getattr(batched, name)[row], getattr(alone, name)[0], rtol=1e-6, atol=1e-6)
        assert batched.spoken[row] == alone.spoken[0]


def test_padding_gets_no_gradient() -> None:
    logits = (vectors() * 1.0).requires_grad_()
    suta(logits, torch.tensor([50, 20]), blank=0).total.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[1, 20:].any()
    assert logits.grad[1, :20].any()


def test_only_blanks_mean_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 5, 4)
    logits[0, :, 0] = 50
    logits[1, 2, 3] = 50
    logits.requires_grad_()
    found = suta(logits, torch.tensor([5, 5]), blank=0)
    found.total.sum().backward()
    assert found.spoken.tolist() == [False, True]
    assert found.total[0] == 0 and found.entropy[0] == 0
    assert found.blend[0] > 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert not logits.grad[0].any()


def test_a_sequence_of_no_steps_has_no_loss() -> None:
    found = suta(torch.zeros(1, 0, 4), torch.tensor([0]), blank=None)
    assert found.spoken.tolist() == [False]
    assert found.total.tolist() == [0]


def test_certain_classes_give_no_nan() -> None:
    logits = torch.full((1, 4, 8), -1e4)
    logits[..., 3] = 1e4
    logits.requires_grad_()
    found = suta(logits, torch.tensor([4]), blank=0)
    found.total.sum().backward()
    assert torch.isfinite(found.total).all()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
