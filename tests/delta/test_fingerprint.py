from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from asrlife.delta.fingerprint import fingerprint, unique


def test_by_hand() -> None:
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(7)}
    expected = hashlib.sha256(
        b'["a", "torch.int64", []]' + np.int64(7).tobytes() + b'["b", "torch.float32", [2]]' + np.array([1.0, 2.0], np.float32).tobytes()
    )
    assert fingerprint(state) == expected.hexdigest()


def test_a_module_and_its_state_agree(model: nn.Module) -> None:
    assert fingerprint(model) == fingerprint(model.state_dict()) == fingerprint(copy.deepcopy(model))


def test_order_of_names_memory_and_layout_do_not_count() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    one = {"a": matrix, "b": torch.ones(2)}
    other = {"b": torch.ones(2), "a": matrix.T.contiguous().T}
    assert other["a"].stride() != matrix.stride()
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([0.0, 1.0, 2.0, 3.000001])},
        {"a": torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)},
        {"a": torch.tensor([[0.0, 1.0], [2.0, 3.0]])},
        {"b": torch.tensor([0.0, 1.0, 2.0, 3.0])},
        {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([2.0, 3.0])},
        {"a": torch.tensor([-0.0, 1.0, 2.0, 3.0])},
        {},
    ],
)
def test_anything_else_counts(other: dict[str, torch.Tensor]) -> None:
    assert fingerprint({"a": torch.tensor([0.0, 1.0, 2.0, 3.0])}) != fingerprint(other)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float16, torch.bfloat16])
def test_every_dtype_has_bytes(dtype: torch.dtype) -> None:
    assert fingerprint({"a": torch.ones(3).to(dtype)}) != fingerprint({"a": torch.zeros(3).to(dtype)})


def test_a_tied_tensor_counts_once_and_empty_ones_each() -> None:
    module = nn.ModuleDict({"head": nn.Linear(3, 4, bias=False), "embedding": nn.Embedding(4, 3)})
    module["head"].weight = module["embedding"].weight
    assert [name for name, _ in unique(module)] == ["embedding.weight"]
    assert fingerprint(module) == fingerprint({"embedding.weight": module.get_parameter("embedding.weight")})
    assert len(list(unique({"a": torch.zeros(0), "b": torch.zeros(0)}))) == 2


def test_buffers_count() -> None:
    module = nn.BatchNorm1d(2)
    before = fingerprint(module)
    module(torch.randn(4, 2))
    assert fingerprint(module) != before
