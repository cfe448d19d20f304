"""What must hold of the methods whatever the numbers, and one merge worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.merge import METHODS, Stack, make
from asrlife.methods.merge.sparsify import by_lot, threshold
from asrlife.methods.merge.spectral import aligned, decomposed, orthonormal
from tests.methods.merge.stacks import scattered, stacked

SEEDS = st.integers(0, 2**16)
SHAPES = st.sampled_from([(6, 10), (12, 5), (7,), (4, 3, 5)])
QUICK = settings(max_examples=15, deadline=None)


def exact(shape: tuple[int, ...], number: int, seed: int) -> list[Tensor]:
    return scattered(shape, number, seed, dtype=torch.float64)


def merged(name: str, tensors: list[Tensor], each: dict[str, tuple[float, ...]] | None = None, **options: object) -> Tensor:
    return make(name, options).merge(stacked(name, tensors, **(each or {})))


def test_ties_by_hand() -> None:
    base = torch.tensor([10.0, 10.0, 10.0, 10.0, 10.0])
    first = base + torch.tensor([4.0, -3.0, 1.0, 0.0, 2.0])  # the three largest stay: 4, -3, 2
    second = base + torch.tensor([-1.0, -5.0, 6.0, 0.5, 0.0])  # -1, -5, 6
    stack = Stack("w", base, (first, second), {"weight": (1.0, 0.5), "density": (0.6, 0.6)})
    # weighted: 4 -3 0 0 2 and -0.5 -2.5 3 0 0; signs + - + + +; agreeing sums 4, -5.5, 3, 0, 2 over weights 1, 1.5, 0.5, none, 1
    wanted = base + 2 * torch.tensor([4.0, -5.5 / 1.5, 6.0, 0.0, 2.0])
    assert torch.allclose(make("ties", {"lambda": 2}).merge(stack), wanted)
    plain = make("ties", {"normalize": False}).merge(stack)
    assert torch.allclose(plain, base + torch.tensor([4.0, -5.5, 3.0, 0.0, 2.0]))


def test_other_methods_by_hand() -> None:
    base, one, other = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0]), torch.tensor([6.0, 0.0])
    assert torch.equal(merged("linear", [base, one, other], {"weight": (1.0, 3.0)}), torch.tensor([5.5, 1.0]))
    assert torch.equal(merged("task_arithmetic", [base, one, other], {"weight": (0.5, -1.0)}), torch.tensor([-2.5, 2.0]))
    # task vectors (3, 4) and (5, 0): cosine 3/5, t = 2 * .6 / 1.6 = 3/4
    assert torch.allclose(merged("model_stock", [base, one, other]), 0.75 * torch.tensor([5.0, 2.0]) + 0.25 * base)
    # a quarter turn half way: both ends times sin(45 degrees)
    assert torch.allclose(merged("slerp", [base, torch.tensor([0.0, 2.0])]), torch.tensor([1.0, 2.0]) * math.sqrt(0.5))
    assert torch.allclose(merged("nearswap", [base, one], t=2.0), torch.tensor([3.0, 2.0]))
    # only the first entry was changed by both
    assert torch.equal(merged("ram", [base, one, other]), torch.tensor([5.0, 4.0]))
    fisher = Stack("w", None, (one, other), {}, evidence=(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])))
    assert torch.allclose(make("fisher").merge(fisher), torch.tensor([5.5, 2.0]))


@given(seed=SEEDS, shape=SHAPES, factor=st.floats(-3, 3))
@QUICK
def test_a_vector_added_and_taken_away_is_the_base(seed: int, shape: tuple[int, ...], factor: float) -> None:
    base, expert = exact(shape, 1, seed)
    there = merged("task_arithmetic", [base, expert], {"weight": (factor,)})
    back = merged("task_arithmetic", [there, there + (expert - base)], {"weight": (-factor,)})
    torch.testing.assert_close(back, base, rtol=1e-12, atol=1e-12)


@given(seed=SEEDS, shape=SHAPES)
@QUICK
def test_task_arithmetic_makes_analogies(seed: int, shape: tuple[int, ...]) -> None:
    base, a, b, c = exact(shape, 3, seed)
    found = merged("task_arithmetic", [base, c, b, a], {"weight": (1.0, 1.0, -1.0)})
    torch.testing.assert_close(found, c + b - a, rtol=1e-12, atol=1e-12)


@given(seed=SEEDS, shape=SHAPES, weight=st.floats(0.1, 2))
@QUICK
def test_ties_and_dare_of_one_whole_vector_are_task_arithmetic(seed: int, shape: tuple[int, ...], weight: float) -> None:
    tensors = scattered(shape, 1, seed)
    wanted = merged("task_arithmetic", tensors, {"weight": (weight,)})
    for name in ("ties", "dare_ties", "dare_linear", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"):
        found = merged(name, tensors, {"weight": (weight,), "density": (1.0,)}, normalize=False)
        assert torch.equal(found, wanted), name


@given(seed=SEEDS, shape=SHAPES)
@QUICK
def test_ties_of_one_direction_is_the_weighted_mean(seed: int, shape: tuple[int, ...]) -> None:
    base, expert = exact(shape, 1, seed)
    experts = [base + length * (expert - base) for length in (1.0, 2.0, 0.5)]
    each = {"weight": (0.5, 0.3, 0.2), "density": (1.0,) * 3}
    wanted = merged("task_arithmetic", [base, *experts], {"weight": each["weight"]}, normalize=True)
    torch.testing.assert_close(merged("ties", [base, *experts], each), wanted)


@given(seed=SEEDS, density=st.floats(0.05, 0.95))
@QUICK
def test_a_threshold_over_the_model_trims_as_the_paper_does(seed: int, density: float) -> None:
    parts = [scattered(shape, 1, seed, spread) for shape, spread in (((6, 10), 0.1), ((20,), 0.5), ((3, 4), 0.01))]
    limit = threshold(lambda: (expert - base for base, expert in parts), density)
    found = [merged("ties", part, {"threshold": (limit,)}) for part in parts]
    kept = sum(int((mixed != base).sum()) for mixed, (base, _) in zip(found, parts, strict=True))
    assert kept == max(1, int(density * 92))


@given(seed=SEEDS, shape=SHAPES)
@QUICK
def test_model_stock_of_one_mind_goes_all_the_way_and_of_two_stays(seed: int, shape: tuple[int, ...]) -> None:
    base, expert = exact(shape, 1, seed)
    torch.testing.assert_close(merged("model_stock", [base, expert, expert, expert]), expert)
    torch.testing.assert_close(merged("model_stock", [base, expert, 2 * base - expert]), base)


@given(seed=SEEDS, shape=SHAPES, weights=st.tuples(*[st.floats(0.1, 2)] * 3))
@QUICK
def test_equal_evidence_is_the_mean(seed: int, shape: tuple[int, ...], weights: tuple[float, ...]) -> None:
    _, *experts = exact(shape, 3, seed)
    wanted = sum(expert * weight for expert, weight in zip(experts, weights, strict=True)) / sum(weights)
    fishers = tuple(torch.ones_like(expert) for expert in experts)
    found = make("fisher").merge(Stack("w", None, tuple(experts), {"weight": weights}, evidence=fishers))
    torch.testing.assert_close(found, wanted)
    grams = (torch.eye(experts[0].numel() // shape[0], dtype=torch.float64),) * 3 if len(shape) > 1 else ()
    found = make("regmean").merge(Stack("w", None, tuple(experts), {"weight": weights}, evidence=grams))
    torch.testing.assert_close(found, wanted)


@given(seed=SEEDS)
@QUICK
def test_regmean_is_the_least_squares_of_all_outputs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    _, *experts = exact((6, 4), 3, seed)
    inputs = [torch.randn(30, 4, generator=generator, dtype=torch.float64) * (index + 1) for index in range(3)]
    stack = Stack("w", None, tuple(experts), {}, evidence=tuple(x.T @ x for x in inputs))
    found = make("regmean", {"alpha": 1.0}).merge(stack)
    outputs = torch.cat([x @ expert.T for x, expert in zip(inputs, experts, strict=True)])
    torch.testing.assert_close(found, torch.linalg.lstsq(torch.cat(inputs), outputs).solution.T)
    stored = Stack("h.0.mlp.c_fc.weight", None, tuple(expert.T for expert in experts), {}, evidence=stack.evidence)
    torch.testing.assert_close(make("regmean", {"alpha": 1.0}).merge(stored), found.T)


def test_regmean_keeps_the_mean_where_no_data_ever_went() -> None:
    _, *experts = exact((6, 4), 2, 0)
    gram = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    found = make("regmean").merge(Stack("w", None, tuple(experts), {}, evidence=(gram, 2 * gram)))
    torch.testing.assert_close(found[:, 2:], (experts[0][:, 2:] + experts[1][:, 2:]) / 2)
    torch.testing.assert_close(found[:, :2], (experts[0][:, :2] + 2 * experts[1][:, :2]) / 3)


@pytest.mark.parametrize(("name", "evidence"), [("fisher", ()), ("fisher", (torch.ones(3),)), ("regmean", (torch.ones(3, 3),))])
def test_evidence_that_is_none_is_refused(name: str, evidence: tuple[Tensor, ...]) -> None:
    with pytest.raises(InputError, match=f"{name}: "):
        make(name).merge(Stack("w", None, (torch.ones(2, 4),), {}, evidence=evidence))


@given(seed=SEEDS, shape=st.sampled_from([(6, 10), (12, 5), (4, 3, 5)]))
@QUICK
def test_aligning_is_exact_and_a_sum_in_the_basis_is_the_sum(seed: int, shape: tuple[int, ...]) -> None:
    base, *experts = exact(shape, 3, seed)
    matrices = [(expert - base).reshape(shape[0], -1) for expert in experts]
    basis, blocks = aligned(matrices)
    for matrix, block in zip(matrices, blocks, strict=True):
        torch.testing.assert_close(basis @ block, matrix)
    each = {"weight": (0.5, 0.8, -0.3)}
    found = merged("knots", [base, *experts], each, mixing="linear")
    torch.testing.assert_close(found, merged("task_arithmetic", [base, *experts], each))


@given(seed=SEEDS, shape=st.sampled_from([(6, 10), (12, 5)]))
@QUICK
def test_isotropic_merges_have_one_singular_value(seed: int, shape: tuple[int, ...]) -> None:
    tensors = exact(shape, 2, seed)
    common = torch.linalg.svdvals(sum(expert - tensors[0] for expert in tensors[1:]))
    found = torch.linalg.svdvals(merged("iso_c", tensors) - tensors[0])
    torch.testing.assert_close(found, common.mean().expand_as(found))
    torch.testing.assert_close(merged("iso_cts", tensors, common_space_fraction=1.0), merged("iso_c", tensors))
    found = torch.linalg.svdvals(merged("iso_cts", tensors, common_space_fraction=0.5) - tensors[0])
    torch.testing.assert_close(found, found.mean().expand_as(found))


@given(seed=SEEDS)
@QUICK
def test_tasks_in_spaces_of_their_own_are_added_by_tsv(seed: int) -> None:
    base = exact((8, 8), 0, seed)[0]
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    vectors = [u[:, part] @ torch.diag(torch.rand(4, generator=generator, dtype=torch.float64) + 0.1) @ v[part] for part in
               (slice(0, 4), slice(4, 8))]  # fmt: skip
    torch.testing.assert_close(merged("tsv_m", [base, *(base + vector for vector in vectors)]), base + vectors[0] + vectors[1])


@given(seed=SEEDS, count=st.integers(1, 4))
@QUICK
def test_tsv_of_experts_that_are_one_has_no_directions_of_chance(seed: int, count: int) -> None:
    base, expert = exact((6, 10), 1, seed)
    found = merged("tsv_m", [base] + [expert] * count) - base
    top = decomposed(expert - base).top(max(1, 6 // count))
    torch.testing.assert_close(found, top.u @ torch.diag(top.s) @ top.v, rtol=1e-6, atol=1e-8)


def test_the_polar_factor_is_the_nearest_with_equal_lengths() -> None:
    matrix = exact((9, 4), 0, 0)[0]
    factor = orthonormal(matrix)
    torch.testing.assert_close(factor.T @ factor, torch.eye(4, dtype=torch.float64))
    stretch = factor.T @ matrix
    torch.testing.assert_close(stretch, stretch.T)
    assert bool((torch.linalg.eigvalsh(stretch) > 0).all())
    assert orthonormal(torch.zeros(3, 2, dtype=torch.float64)).abs().sum() == 0


@given(seed=SEEDS, t=st.floats(0, 1))
@QUICK
def test_turning_follows_the_closed_form_to_a_unit_in_the_last_place(seed: int, t: float) -> None:
    one, other = scattered((64,), 1, seed, spread=0.8)
    one, other = one / 4, other / 4
    a, b = one.double(), other.double()
    angle = torch.acos((a @ b) / (a.norm() * b.norm()))
    wanted = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    for found in (
        make("slerp", {"t": t}).merge(Stack("w", one, (other,), {})),
        make("nuslerp").merge(Stack("w", None, (one, other), {"weight": (1 - t, t)})),
    ):
        assert float((found.double() - wanted).abs().max()) <= 1.2e-7 * max(1.0, float(wanted.abs().max()))


@given(seed=SEEDS)
@QUICK
def test_spheres_agree_on_two_halves(seed: int) -> None:
    one, other = (tensor / tensor.norm() for tensor in exact((40,), 1, seed))
    half = make("slerp").merge(Stack("w", one, (other,), {}))
    for name in ("nuslerp", "multislerp", "karcher"):
        torch.testing.assert_close(make(name).merge(Stack("w", None, (one, other), {})), half, rtol=1e-6, atol=1e-7)


@given(seed=SEEDS)
@QUICK
def test_karcher_ends_where_no_tangent_pulls(seed: int) -> None:
    tensors = exact((30,), 3, seed)[1:]
    mean = make("karcher", {"max_iter": 100, "tol": 1e-10}).merge(Stack("w", None, tuple(tensors), {}))
    mean = mean / mean.norm()
    units = [tensor / tensor.norm() for tensor in tensors]
    pulls = [(unit - (unit @ mean) * mean) * (torch.acos(unit @ mean) / torch.sin(torch.acos(unit @ mean))) for unit in units]
    assert float(sum(pulls).norm()) < 1e-6


def test_a_lot_keeps_the_mean() -> None:
    base, expert = torch.zeros(400, 250), torch.full((400, 250), 0.5)
    for name, density in (("dare_linear", 0.1), ("della_linear", 0.5)):
        found = make(name).merge(Stack("w", base, (expert,), {"density": (density,)}))
        spread = 0.5 * math.sqrt((1 - density) / density / base.numel())
        assert abs(float(found.mean()) - 0.5) < 6 * spread
        restored = make(name, {"rescale": "l1"}).merge(Stack("w", base, (expert,), {"density": (density,)}))
        assert math.isclose(float(restored.sum()), 0.5 * base.numel(), rel_tol=1e-5)


def test_a_lot_falls_by_seed_name_and_expert_alone() -> None:
    base, expert = torch.zeros(500), torch.ones(500)

    def drawn(name: str, seed: int, place: int) -> Tensor:
        experts = [base, base]
        experts[place] = expert
        return make("dare_linear").merge(Stack(name, base, tuple(experts), {"density": (0.5, 0.5)}, seed)) != 0

    assert torch.equal(drawn("w", 0, 1), by_lot(expert, 0.5, 0, "w", 1))
    kinds = [drawn("w", 0, 0), drawn("w", 0, 1), drawn("w", 1, 0), drawn("v", 0, 0)]
    assert all(0.3 < float((one == other).float().mean()) < 0.7 for one in kinds for other in kinds if one is not other)


@pytest.mark.parametrize(
    "name", ["task_arithmetic", "ties", "model_stock", "sce", "multislerp", "tsv_m", "iso_c", "iso_cts", "knots", "emr"]
)
def test_shorter_steps_are_merged_as_longer_ones_are(name: str) -> None:
    # what a low learning rate leaves is below the absolute floors of mergekit's model_stock and sce, and counts here all the same
    base, *experts = exact((6, 10), 3, 0)
    longer = merged(name, [base, *experts]) - base
    shorter = merged(name, [base, *(base + 1e-5 * (expert - base) for expert in experts)]) - base
    torch.testing.assert_close(shorter * 1e5, longer, rtol=1e-4, atol=1e-6)


def test_the_sum_over_experts_goes_from_the_first_to_the_last() -> None:
    base = torch.zeros(1)
    experts = [torch.tensor([value]) for value in (1.0, 2.0**-24, 2.0**-24, 2.0**-24, 2.0**-24)]
    assert merged("task_arithmetic", [base, *experts]) == 1.0
    assert merged("task_arithmetic", [base, *experts[::-1]]) > 1.0
    assert METHODS["task_arithmetic"].symmetric, "to rounding"
