"""The stack that every merging method is given."""

from __future__ import annotations

import pytest
import torch

from asrlife.errors import InputError
from asrlife.methods.merge import Stack, make

ONE, TWO = torch.zeros(2, 3), torch.ones(2, 3)


def test_a_stack_of_one_shape_is_accepted() -> None:
    stack = Stack("w", ONE, (TWO, TWO), {"weight": (1.0, 0.5)})
    assert stack.seed == 0 and stack.evidence == ()


@pytest.mark.parametrize(
    ("base", "experts", "each", "evidence", "says"),
    [
        (ONE, (), {}, (), "nothing to merge"),
        (ONE, (torch.zeros(3, 2),), {}, (), r"\(3, 2\) in model 0 and \(2, 3\) in the base"),
        (None, (ONE, torch.zeros(4)), {}, (), r"\(4,\) in model 1 and \(2, 3\) in the first model"),
        (ONE, (ONE, TWO), {"weight": (1.0,)}, (), "1 values of 'weight' for 2 models"),
        (ONE, (ONE, TWO), {}, (ONE,), "1 values of 'evidence' for 2 models"),
    ],
)
def test_a_stack_that_does_not_fit_is_refused_by_name(base, experts, each, evidence, says) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=says):
        Stack("encoder.w", base, experts, each, evidence=evidence)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="unknown merging method 'taskarithmetic'"):
        make("taskarithmetic")
