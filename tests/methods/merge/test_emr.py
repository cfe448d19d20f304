"""EMR beyond one tensor: masks and rescalers for each task."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.methods.merge.emr import Emr, rescalers
from tests.methods.merge.stacks import scattered, stacked

SHAPES = ((6, 10), (7,), (4, 3, 5))


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_one_task_is_remembered_exactly(seed: int) -> None:
    models = [scattered(shape, 1, seed) for shape in SHAPES]
    splits = [Emr().split(stacked("emr", tensors)) for tensors in models]
    (rescaler,) = rescalers(splits)
    assert rescaler == 1.0
    for split, (base, expert) in zip(splits, models, strict=True):
        assert torch.equal(split.vector(0, rescaler), expert - base)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_a_task_gets_back_its_signs_and_its_size(seed: int) -> None:
    models = [scattered(shape, 3, seed) for shape in SHAPES]
    splits = [Emr().split(stacked("emr", tensors)) for tensors in models]
    for task, rescaler in enumerate(rescalers(splits)):
        own = sum(float((tensors[task + 1] - tensors[0]).abs().sum()) for tensors in models)
        back = [split.vector(task, rescaler) for split in splits]
        assert abs(sum(float(vector.abs().sum()) for vector in back) / own - 1) < 1e-5
        for vector, tensors in zip(back, models, strict=True):
            assert bool((vector * (tensors[task + 1] - tensors[0]) >= 0).all())


def test_by_hand() -> None:
    base = torch.zeros(4)
    experts = [torch.tensor(values) for values in ([1.0, -2.0, 0.0, 3.0], [2.0, 1.0, 0.0, -3.0])]
    split = Emr().split(stacked("emr", [base, *experts]))
    assert split.unified.tolist() == [2.0, -2.0, 0.0, -3.0], "sums 3, -1, 0, 0: a tie elects minus"
    assert [mask.tolist() for mask in split.masks] == [[True, True, False, False], [True, False, False, True]]
    assert rescalers([split]) == (6 / 4, 6 / 5)
    assert torch.equal(Emr(scale=0.5).merge(stacked("emr", [base, *experts])), split.unified / 2)


def test_a_task_that_changed_nothing_keeps_the_base() -> None:
    base, expert = scattered((6, 10), 1)
    split = Emr().split(stacked("emr", [base, base, expert]))
    still, moved = rescalers([split])
    assert still == 1.0 and not split.vector(0, still).any()
    assert moved == 1.0 and torch.equal(split.vector(1, moved), expert - base)
    assert rescalers([]) == ()
