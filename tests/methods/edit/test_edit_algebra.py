"""The closed forms of editors against dense algebra and against each other, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asrlife.delta.delta import LowRank
from asrlife.errors import InputError
from asrlife.methods.edit.algebra import Covariance, alphaedit, emmet, memit, rome, ultraedit

IN, OUT = 24, 9


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(seed: int = 0, tokens: int = 200) -> Covariance:
    keys = normal(seed, IN, tokens) * torch.linspace(0.05, 3, IN, dtype=torch.float64)[:, None]
    return Covariance(keys @ keys.T / tokens)


def apart(a: LowRank | Tensor, b: LowRank | Tensor) -> float:
    x, y = (each.dense() if isinstance(each, LowRank) else each for each in (a, b))
    return float((x - y).norm() / y.norm())


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_an_edit_gives_its_key_the_wanted_value(seed: int) -> None:
    weight, key, value = normal(seed, OUT, IN), normal(seed + 1, IN), normal(seed + 2, OUT)
    change = rome(value - weight @ key, key, covariance(seed))
    assert float(((weight + change.dense()) @ key - value).norm() / value.norm()) < 1e-10
    assert change.rank == 1


@given(st.integers(0, 10**6), st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_exact_edits_of_several_keys_and_rome_as_one_of_them(seed: int, count: int) -> None:
    weight, keys, values, known = normal(seed, OUT, IN), normal(seed + 1, IN, count), normal(seed + 2, OUT, count), covariance(seed)
    change = emmet(values - weight @ keys, keys, known)
    assert apart((weight + change.dense()) @ keys, values) < 1e-10
    one = emmet((values - weight @ keys)[:, :1], keys[:, :1], known)
    assert apart(one, rome((values - weight @ keys)[:, 0], keys[:, 0], known)) < 1e-10


def test_no_smaller_change_in_the_norm_of_the_covariance_makes_the_edits() -> None:
    keys, residuals, known = normal(1, IN, 3), normal(2, OUT, 3), covariance()
    change = emmet(residuals, keys, known).dense()
    size = torch.trace(change @ known.matrix @ change.T)
    null = torch.eye(IN, dtype=torch.float64) - keys @ torch.linalg.pinv(keys)
    for seed in range(5):
        other = change + 0.1 * normal(seed + 9, OUT, IN) @ null
        assert apart(other @ keys, residuals) < 1e-10 and torch.trace(other @ known.matrix @ other.T) > size


@pytest.mark.parametrize("count", [1, 5, 40])
def test_memit_by_woodbury_is_memit_written_out(count: int) -> None:
    keys, residuals, known = normal(1, IN, count), normal(2, OUT, count), covariance()
    dense = residuals @ keys.T @ torch.linalg.inv(15.0 * known.matrix + keys @ keys.T)
    assert apart(memit(residuals, keys, known, 15.0), dense) < 1e-10


def test_memit_comes_to_emmet_as_its_weight_vanishes() -> None:
    keys, residuals, known = normal(1, IN, 4), normal(2, OUT, 4), covariance()
    gaps = [apart(memit(residuals, keys, known, weight), emmet(residuals, keys, known)) for weight in (1e-2, 1e-5, 1e-8)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-7


@pytest.mark.parametrize(("count", "before"), [(2, 0), (3, 5), (4, 30)])
def test_alphaedit_in_either_form_is_alphaedit_written_out_and_leaves_known_keys_alone(count: int, before: int) -> None:
    known = covariance()
    unused = known.unused(energy=0.3)
    keys, earlier, residuals = normal(1, IN, count), normal(3, IN, before), normal(2, OUT, count)
    change = alphaedit(residuals, keys, unused, earlier if before else None, ridge=2.0)
    projector = unused @ unused.T
    both = keys @ keys.T + earlier @ earlier.T
    dense = torch.linalg.solve(projector @ both + 2.0 * torch.eye(IN, dtype=torch.float64), projector @ keys @ residuals.T).T
    assert apart(change, dense) < 1e-10
    kept = normal(4, IN, 6) - projector @ normal(4, IN, 6)
    assert float((change.dense() @ kept).norm() / (change.dense().norm() * kept.norm())) < 1e-8


def test_ultraedit_is_ridge_regression() -> None:
    keys, changes = normal(1, IN, 5), normal(2, 5, OUT)
    dense = torch.linalg.solve(keys @ keys.T + torch.eye(IN, dtype=torch.float64), keys @ changes).T
    assert apart(ultraedit(keys, changes), dense) < 1e-10


def test_what_is_unused_by_threshold_and_by_energy() -> None:
    known = Covariance(torch.diag(torch.tensor([0.01, 0.03, 5.0, 0.02], dtype=torch.float64)))
    assert known.unused(threshold=0.025).abs().sum(1).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert known.unused(energy=0.0125).shape == (4, 3)  # 0.01 + 0.02 + 0.03 of 5.06
    with pytest.raises(InputError, match="either a threshold of eigenvalues or a share"):
        known.unused()


def test_too_few_tokens_are_told_and_shrinkage_mends_it() -> None:
    poor = covariance(tokens=5)
    with pytest.raises(InputError, match="not positive definite: use more tokens, or shrinkage"):
        poor.solved(normal(1, IN, 1))
    key, residual = normal(1, IN), normal(2, OUT)
    assert apart(rome(residual, key, poor.shrunk(1e-3)).dense() @ key, residual) < 1e-9
    with pytest.raises(InputError, match="is not square"):
        Covariance(normal(1, 3, 4))
    with pytest.raises(InputError, match="it must be above 0"):
        memit(residual[:, None], key[:, None], covariance(), 0.0)
