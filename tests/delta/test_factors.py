"""Merging in factor space is exact: against the dense formulas in float64, and against peft's own combinations."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asrlife.delta.delta import Delta, Dense, LowRank
from asrlife.delta.factors import aligned, compressed, concatenated, knots
from asrlife.errors import InputError

OUT, INTO = 30, 22


def factors(seed: int, rank: int, out: int = OUT, into: int = INTO) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=generator).double(), torch.randn(rank, into, generator=generator).double())


def delta(**changes: Any) -> Delta:
    return Delta("base", changes)


def total(parts: Any) -> Tensor:
    return torch.stack(list(parts)).sum(0)


@pytest.mark.parametrize("ranks", [(3,), (4, 4), (2, 5, 3), (20, 20)])
def test_the_basis_is_that_of_the_dense_svd(ranks: tuple[int, ...]) -> None:
    changes = [factors(seed, rank) for seed, rank in enumerate(ranks)]
    found = aligned(changes)
    dense = torch.cat([change.dense() for change in changes], dim=1)
    values = torch.linalg.svdvals(dense)
    values = values[values >= 1e-4]
    torch.testing.assert_close(found.values, values, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(len(values)).double(), rtol=0, atol=1e-12)
    for change, block in zip(changes, found.blocks, strict=True):
        torch.testing.assert_close(found.basis @ block, change.dense(), rtol=0, atol=1e-11)


def test_a_merge_in_the_basis_is_that_of_the_dense_method() -> None:
    """Elementwise maximum depends on the basis up to signs of directions: the dense SVD, with its signs made ours, gives the same."""
    changes = [factors(seed, 3) for seed in range(3)]

    def by_size(blocks: Any) -> Tensor:
        stacked = torch.stack(list(blocks))
        return stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]

    found = knots([delta(w=change) for change in changes], by_size).tensors["w"]
    left, values, right = torch.linalg.svd(torch.cat([change.dense() for change in changes], dim=1), full_matrices=False)
    kept = values >= 1e-4
    blocks = (values[kept, None] * right[kept]).split(INTO, dim=1)
    torch.testing.assert_close(found.dense(), left[:, kept] @ by_size(blocks), rtol=0, atol=1e-10)
    assert isinstance(found, LowRank) and found.rank == 9


def test_a_sum_in_the_basis_is_the_sum() -> None:
    first, second = delta(a=factors(0, 3), b=factors(1, 2)), delta(a=factors(2, 4), c=factors(3, 1))
    merged = knots([first, second], total)
    assert set(merged.tensors) == {"a", "b", "c"} and merged.note["method"] == "knots"
    assert (merged - (first + second)).norm() < 1e-10
    plain = concatenated([first, second], [0.5, -2.0])
    assert (plain - (0.5 * first + -2.0 * second)).norm() == 0.0
    assert isinstance(plain.tensors["a"], LowRank) and plain.tensors["a"].rank == 7


def test_one_delta_alone_comes_back() -> None:
    one = delta(a=factors(0, 3))
    assert (knots([one], total) - one).norm() < 1e-11


def test_compression_is_the_truncated_svd() -> None:
    change = factors(0, 8)
    left, values, right = torch.linalg.svd(change.dense(), full_matrices=False)
    found = compressed(delta(w=change), rank=3).tensors["w"]
    torch.testing.assert_close(found.dense(), left[:, :3] * values[:3] @ right[:3], rtol=0, atol=1e-11)
    assert isinstance(found, LowRank) and found.rank == 3


def test_compression_without_a_rank_drops_only_what_is_superfluous() -> None:
    one, other = delta(w=factors(0, 4)), delta(w=factors(1, 2))
    heap = one + other - one + one
    assert heap.tensors["w"].rank == 14  # type: ignore[union-attr]
    lean = compressed(heap)
    assert lean.tensors["w"].rank == 6 and (lean - heap).norm() < 1e-10  # type: ignore[union-attr]
    nothing = compressed(one - one).tensors["w"]
    assert isinstance(nothing, LowRank) and nothing.rank == 1 and float(nothing.dense().abs().max()) < 1e-12
    assert compressed(heap, tolerance=0.99).tensors["w"].rank == 1  # type: ignore[union-attr]
    dense = delta(n=Dense(torch.ones(3)))
    assert compressed(dense).tensors["n"] is not None and (compressed(dense) - dense).norm() == 0.0


def test_what_does_not_combine_is_named() -> None:
    low, dense = delta(w=factors(0, 2)), delta(w=Dense(torch.ones(OUT, INTO).double()))
    with pytest.raises(InputError, match="'w' is dense in one delta"):
        knots([low, dense], total)
    with pytest.raises(InputError, match="different bases"):
        knots([low, Delta("other", {})], total)
    with pytest.raises(InputError, match=r"'w' has shape \(30, 22\) in one delta and \(3, 22\)"):
        knots([low, delta(w=factors(0, 2, out=3))], total)
    with pytest.raises(InputError, match="no deltas"):
        concatenated([], [])
    with pytest.raises(InputError, match="1 deltas and 2 weights"):
        concatenated([low], [1.0, 2.0])
    with pytest.raises(InputError, match="rank 0"):
        compressed(low, rank=0)


def test_peft_combines_alike(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft, the oracle, is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    from asrlife.delta.lora import read_lora

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}
    base = LlamaForCausalLM(LlamaConfig(**sizes))
    module = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=3, lora_alpha=4, target_modules=["q_proj", "up_proj"]), "one")
    module.add_adapter("two", peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    module.save_pretrained(tmp_path)
    ours = [read_lora(tmp_path / name, base) for name in ("one", "two")]
    module.add_weighted_adapter(["one", "two"], [0.7, -0.4], "cat", combination_type="cat")
    module.add_weighted_adapter(["one", "two"], [0.7, -0.4], "svd", combination_type="svd", svd_rank=3)
    sums = concatenated(ours, [0.7, -0.4])
    for name, ours_now in (("cat", sums), ("svd", compressed(sums, rank=3))):
        for key, change in ours_now.tensors.items():
            theirs = module.get_submodule(f"base_model.model.{key.removesuffix('.weight')}").get_delta_weight(name)
            torch.testing.assert_close(change.dense(), theirs.detach(), rtol=0, atol=2e-5)  # their SVD is in float32, of entries up to 30


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_knots_of_factors_is_knots_of_the_written_out_matrices(density: float) -> None:
    from asrlife.methods.merge.method import Stack
    from asrlife.methods.merge.registry import make

    deltas = [delta(w=factors(seed, rank)) for seed, rank in enumerate((4, 2, 3))]
    each = {"weight": (1.0, 0.5, 2.0), "density": (density,) * 3}
    base = torch.randn(OUT, INTO, generator=torch.Generator().manual_seed(9)).double()
    experts = tuple(base + each_.tensors["w"].dense() for each_ in deltas)
    dense = make("knots").merge(Stack("w", base, experts, each)) - base

    def ties(blocks: Any) -> Tensor:
        return make("ties").merge(Stack("w", torch.zeros_like(blocks[0]), tuple(blocks), each))

    found = knots(deltas, ties).tensors["w"]
    assert isinstance(found, LowRank) and found.rank == 9
    torch.testing.assert_close(found.dense(), dense, rtol=0, atol=1e-9)
