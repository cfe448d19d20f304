from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asrlife.delta.delta import Change, Delta, Dense, LowRank, analogy, between
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError

SHAPES = {"a.weight": (3, 4), "b.weight": (5, 2), "b.bias": (5,)}

# entries and scales are at most 4 in size, so results are at most some hundred: a few float32 roundings of 2**-24 stay below this
ABSOLUTE = 1e-3


def change(shape: tuple[int, ...], kind: int, seed: int) -> Change:
    """Dense for kind 0, else of that rank."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator) * 8 - 4

    if kind == 0 or len(shape) == 1:
        return Dense(uniform(*shape))
    return LowRank(uniform(shape[0], kind), uniform(kind, shape[1]))


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    names = draw(st.lists(st.sampled_from(list(SHAPES)), unique=True))
    return Delta("base", {name: change(SHAPES[name], draw(st.integers(0, 2)), draw(st.integers(0, 999))) for name in names})


scales = st.floats(-4, 4, width=32)


def vector(delta: Delta) -> Tensor:
    """The whole delta written out, zeros where it does not move."""
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return torch.cat([(zeros | {key: value.dense() for key, value in delta.tensors.items()})[name].reshape(-1) for name in SHAPES])


def assert_same(one: Delta, other: Delta) -> None:
    assert one.base == other.base
    torch.testing.assert_close(vector(one), vector(other), rtol=1e-5, atol=ABSOLUTE)


ZERO = Delta("base", {})


@settings(deadline=None)
@given(deltas(), deltas(), deltas(), scales, scales)
def test_deltas_are_a_vector_space(u: Delta, v: Delta, w: Delta, s: float, t: float) -> None:
    assert_same(u + v, v + u)
    assert_same((u + v) + w, u + (v + w))
    assert_same(u + ZERO, u)
    assert_same(u - u, ZERO)
    assert_same(u + -v, u - v)
    assert_same(s * (u + v), s * u + s * v)
    assert_same((s + t) * u, s * u + t * u)
    assert_same((s * t) * u, s * (t * u))
    assert_same(1.0 * u, u * 1)


@settings(deadline=None)
@given(deltas(), deltas(), deltas())
def test_analogies(a: Delta, b: Delta, c: Delta) -> None:
    assert_same(analogy(a, b, a), b)
    assert_same(analogy(a, a, c), c)
    assert_same(analogy(a, b, c), analogy(a, c, b))
    torch.testing.assert_close(vector(analogy(a, b, c)), vector(c) + vector(b) - vector(a), rtol=1e-5, atol=ABSOLUTE)


@settings(deadline=None)
@given(deltas(), deltas(), scales)
def test_the_algebra_is_that_of_the_written_out_vectors(u: Delta, v: Delta, s: float) -> None:
    torch.testing.assert_close(vector(u + s * v), vector(u) + s * vector(v), rtol=1e-5, atol=ABSOLUTE)
    x, y = vector(u).double(), vector(v).double()
    # written-out low rank is rounded to float32, the trace is not: products of entries up to 32 in 27 places
    assert u.dot(v) == pytest.approx(float(x @ y), rel=1e-5, abs=1e-2)
    assert u.norm() == pytest.approx(float(x.norm()), rel=1e-5, abs=ABSOLUTE)
    if u.norm() and v.norm():
        assert u.cosine(v) == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-5)


@settings(deadline=None)
@given(deltas(), deltas())
def test_length_and_angle_obey_their_inequalities(u: Delta, v: Delta) -> None:
    assert (u + v).norm() <= u.norm() + v.norm() + ABSOLUTE
    assert abs(u.dot(v)) <= u.norm() * v.norm() * (1 + 1e-6) + ABSOLUTE
    assert (-2 * u).norm() == pytest.approx(2 * u.norm(), rel=1e-6)
    if u.norm():
        assert u.cosine(3 * u) == pytest.approx(1.0, abs=1e-6)


@settings(deadline=None)
@given(deltas().filter(lambda delta: any(name.startswith("b") for name in delta.tensors)))
def test_a_restriction_and_the_rest_make_the_whole(u: Delta) -> None:
    part = u.restrict(r"^b\.")
    assert all(name.startswith("b.") for name in part.tensors)
    rest = {name: value for name, value in u.tensors.items() if not name.startswith("b.")}
    assert torch.equal(vector(part + Delta("base", rest)), vector(u))
    assert_same(part.restrict(r"^b\."), part)


def test_by_hand() -> None:
    one = Delta("base", {"a": LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])), "b": Dense(torch.tensor([2.0]))})
    two = Delta("base", {"a": LowRank(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0, 0.0]]))})
    total = 2 * one - two
    assert total.tensors["a"].dense().tolist() == [[6.0, 8.0], [11.0, 16.0]]
    assert total.tensors["b"].dense().tolist() == [4.0]
    assert one.norm() == math.sqrt(9 + 16 + 36 + 64 + 4)
    assert one.dot(two) == 6.0
    assert one.cosine(two) == pytest.approx(6 / math.sqrt(129))


def test_synthetic_to_real_is_one_line() -> None:
    def model(value: float) -> dict[str, Tensor]:
        return {"weight": torch.tensor([1.0, value])}

    base = model(0.0)
    synthetic_source, real_source, synthetic_target = (between(base, model(value)) for value in (1.0, 1.5, 4.0))
    scale = 0.5
    estimate = synthetic_target + scale * (real_source - synthetic_source)
    assert estimate.tensors["weight"].dense().tolist() == [0.0, 4.25]


def test_low_rank_stays_low_rank_unless_dense_joins() -> None:
    low = Delta("base", {"a.weight": change((30, 40), 2, 0)})
    both = low + 0.5 * low - low
    assert isinstance(both.tensors["a.weight"], LowRank) and both.tensors["a.weight"].rank == 6
    mixed = low + Delta("base", {"a.weight": change((30, 40), 0, 1)})
    assert isinstance(mixed.tensors["a.weight"], Dense)


def test_norm_and_cosine_never_write_low_rank_out(monkeypatch: pytest.MonkeyPatch) -> None:
    u, v = (Delta("base", {"a": change((30, 40), 2, seed)}) for seed in (0, 1))
    expected = u.tensors["a"].dense().double(), v.tensors["a"].dense().double()

    def refuse(_: Any) -> Tensor:
        raise AssertionError("written out")

    monkeypatch.setattr(LowRank, "dense", refuse)
    assert u.norm() == pytest.approx(float(expected[0].norm()), rel=1e-6)
    assert u.cosine(v) == pytest.approx(float((expected[0] * expected[1]).sum() / expected[0].norm() / expected[1].norm()), abs=1e-6)


def test_a_cancelled_low_rank_difference_has_next_to_no_length() -> None:
    for seed in range(20):  # measured: at most 3e-8, the rounding of 0.3 and 0.7 to float32
        u = Delta("base", {"a": change((30, 40), 2, seed)})
        assert (0.3 * u + 0.7 * u - u).norm() < 1e-6 * u.norm()


def test_a_delta_does_not_follow_its_live_factors() -> None:
    up, down = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.ones(1, 2))
    delta = Delta("base", {"a": LowRank(up, down)})
    with torch.no_grad():
        up.zero_()
    assert delta.tensors["a"].dense().tolist() == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(TypeError):
        delta.tensors["b"] = delta.tensors["a"]  # type: ignore[index]


def test_the_note_tells_what_it_was_made_of() -> None:
    one, two = Delta("base", {}, {"method": "tune", "seed": 1}), Delta("base", {}, {"method": "edit"})
    assert (one + 2 * two).note == {
        "method": "sum",
        "parents": [{"method": "tune", "seed": 1}, {"method": "multiple", "scale": 2.0, "parents": [{"method": "edit"}]}],
    }


def test_numpy_scalars_scale_and_others_do_not() -> None:
    one = Delta("base", {"a": Dense(torch.ones(2))})
    for product in (one * np.float32(2), np.float32(2) * one, one * np.int64(2)):  # type: ignore[operator]
        assert product.tensors["a"].dense().tolist() == [2.0, 2.0]
    for wrong in ("2", None, one):
        with pytest.raises(TypeError):
            one * wrong  # type: ignore[operator]
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]


def test_errors_say_which() -> None:
    one = Delta("base-one", {"a": Dense(torch.ones(2))})
    with pytest.raises(InputError, match="different bases, base-one and base-two"):
        one + Delta("base-two", {})
    with pytest.raises(InputError, match="different bases"):
        one.cosine(Delta("base-two", {}))
    with pytest.raises(InputError, match=r"'a' has shape \(2,\) in one delta and \(3,\) in the other"):
        one - Delta("base-one", {"a": Dense(torch.ones(3))})
    with pytest.raises(InputError, match="scaled by inf"):
        math.inf * one
    with pytest.raises(InputError, match="no direction"):
        one.cosine(Delta("base-one", {}))
    with pytest.raises(InputError, match="matches 'norm': it has a"):
        one.restrict("norm")
    with pytest.raises(InputError, match="no regular expression"):
        one.restrict("(")
    with pytest.raises(InputError, match=r"up \(2, 1\) and down \(2, 2\)"):
        LowRank(torch.ones(2, 1), torch.ones(2, 2))
    with pytest.raises(InputError, match="share a floating dtype"):
        LowRank(torch.ones(2, 1), torch.ones(1, 2).half())
    with pytest.raises(InputError, match="torch.int64"):
        Dense(torch.tensor([1]))


def test_between_finds_what_moved(model: nn.Module) -> None:
    tuned = copy.deepcopy(model)
    name = next(name for name, _ in model.named_parameters() if name.endswith("v_proj.bias"))
    with torch.no_grad():
        tuned.get_parameter(name).add_(0.25)
    delta = between(model, tuned.state_dict(), {"method": "tune"})
    assert delta.base == fingerprint(model)
    assert delta.note == {"method": "tune"}
    assert list(delta.tensors) == [name]
    torch.testing.assert_close(delta.tensors[name].dense(), torch.full_like(model.get_parameter(name), 0.25))
    assert not between(model, model).tensors


def test_between_halves_is_taken_in_single_precision() -> None:
    base, tuned = ({"a": torch.tensor([value], dtype=torch.float16)} for value in (1.0, -(2.0**-11)))
    assert between(base, tuned).tensors["a"].dense().tolist() == [-1.0 - 2.0**-11]


def test_between_counts_statistics_but_not_counters() -> None:
    base = nn.BatchNorm1d(2)
    tuned = copy.deepcopy(base)
    tuned(torch.randn(8, 2))
    assert sorted(between(base, tuned).tensors) == ["running_mean", "running_var"]


def test_between_wants_the_same_model() -> None:
    with pytest.raises(InputError, match="'bias' is only in the base model"):
        between(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    with pytest.raises(InputError, match="'bias' is only in the tuned model"):
        between(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"'weight' has shape \(2, 2\) in the base and \(2, 3\) in the tuned model"):
        between(nn.Linear(2, 2, bias=False), nn.Linear(3, 2, bias=False))
