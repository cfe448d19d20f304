"""Expressions worked out in memory are those that are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from asrlife.delta.arithmetic import write
from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.expression import with_numbers
from asrlife.delta.resident import ResidentSum
from asrlife.errors import InputError
from tests.methods.merge.folders import tuned


@pytest.fixture(scope="module")
def three(ctc_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """With a weight-norm pair and BatchNorm statistics among their tensors."""
    base, place = ctc_folder("wav2vec2-conformer", "layer"), tmp_path_factory.mktemp("three")
    return {name: Checkpoint.open(tuned(base, place / name, seed)) for seed, name in enumerate("abc")}


@pytest.mark.parametrize(
    ("text", "values", "exact"),
    [
        ("a + s * (b - c)", {"s": 0.3}, True),
        ("a + s * (b - c)", {"s": 0.0}, True),
        ("a + s * (b - c)", {"s": -0.7}, True),
        ("s * a + (1 - s) * b", {"s": 0.3}, False),
        ("a + s * s * (b - c)", {"s": 0.3}, True),  # no line in s: worked out as a whole
        ("a + s * (b - a) + t * (c - a)", {"s": 0.3, "t": 0.4}, True),
    ],
)
def test_memory_and_files_hold_the_same(
    text: str, values: dict[str, float], exact: bool, three: dict[str, Checkpoint], tmp_path: Path
) -> None:
    resident = ResidentSum(text, three, tuple(values))
    places = {name: torch.empty(three["a"].entries[name].shape) for name in resident.names}
    for _ in range(2):  # the second time from what was kept
        resident.fill(values, places)
    written = load_file(write(resident.combination(values), tmp_path / "out") / "model.safetensors")
    for name, place in places.items():
        assert torch.equal(place, written[name]) if exact else torch.allclose(place, written[name], atol=1e-6), name


def test_the_base_is_where_all_factors_are_0(three: dict[str, Checkpoint]) -> None:
    assert ResidentSum("a + s * (b - c)", three, ("s",)).base == {"s": 0.0}
    assert ResidentSum("s * a + (1 - s) * b", three, ("s",)).base == {"s": 0.0}
    with pytest.raises(InputError, match="which makes no model"):
        ResidentSum("a + s * b", three, ("s",))


def test_numbers_take_the_place_of_names() -> None:
    assert with_numbers("a + s * (ss - s2)", {"s": 0.5}) == "a + 0.5 * (ss - s2)"
    assert with_numbers("a - s*b", {"s": -2}) == "a - (-2.0)*b"
    with pytest.raises(InputError, match="'t' is not in"):
        with_numbers("a + s * b", {"t": 1.0})
