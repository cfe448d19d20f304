"""The least change of scores that makes a target win."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.methods.edit.speech.wanted import lacking, least_change


def scores(seed: int, steps: int = 5, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(steps, classes, generator=generator, dtype=torch.float64), torch.randint(classes, (steps,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 5))
def test_the_target_wins_by_the_margin_and_no_shorter_change_does_that(seed: int, margin: float) -> None:
    given_, targets = scores(seed)
    change = least_change(given_, targets, margin)
    found = given_ + change
    assert not lacking(found, targets, margin - 1e-9).any()
    # a point is the projection onto a convex set just where no other point of the set lies on the near side of it
    other = given_ + torch.randn_like(given_)
    best = other.scatter(1, targets[:, None], -torch.inf).max(1).values
    other = other.scatter(1, targets[:, None], (best + margin + torch.rand(len(best), dtype=torch.float64))[:, None])
    assert bool((((given_ - found) * (other - found)).sum(1) <= 1e-9).all())


def test_what_wins_already_stays() -> None:
    given_, targets = scores(3)
    given_ = given_.scatter(1, targets[:, None], 50.0)
    assert not lacking(given_, targets, 2.0).any()
    assert torch.equal(least_change(given_, targets, 2.0), torch.zeros_like(given_))


def test_two_classes_meet_in_the_middle() -> None:
    change = least_change(torch.tensor([[4.0, 0.0, -9.0]]), torch.tensor([1]), 2.0)
    assert change.tolist() == [[-3.0, 3.0, 0.0]]
