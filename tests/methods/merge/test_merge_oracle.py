"""What mergekit 0.1.5, fusion-bench 0.2.33 and peft 0.21.2 give for the same tensors: `oracle.py` made the file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from asrlife.methods.merge import Stack, make

FILE = Path(__file__).with_name("oracle.safetensors")
# what is neither bit-equal nor listed is: reductions in float64 against theirs in float32, in units of the largest entry
CLOSE = {
    **dict.fromkeys(("slerp", "nuslerp", "nuslerp_plain", "nuslerp_rows", "nuslerp_columns"), 2e-7),
    **dict.fromkeys(("multislerp", "multislerp_plain", "karcher"), 3e-7),
    **dict.fromkeys(("sce", "sce_all", "arcee_fusion"), 2e-7),
    "fisher": 3e-7,  # theirs multiplies by 1/3 first: one rounding more in every term
    **dict.fromkeys(("iso_c", "knots"), 1e-6),
    **dict.fromkeys(("tsv_m", "iso_cts", "regmean"), 1e-5),
}


@cache
def kept() -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(FILE, "pt") as file:
        return json.loads(file.metadata()["cases"]), {key: file.get_tensor(key) for key in file.keys()}


def ours(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    cases, tensors = kept()
    case = cases[name]
    each = {key: tuple(values) for key, values in case.get("each", {}).items()}
    count = case.get("count") or len(next(iter(each.values()), (0, 0, 0)))
    base = tensors["base"].to(dtype) if case.get("base", True) else None
    experts = tuple(tensors[f"expert.{index}"].to(dtype) for index in range(count))
    evidence = tuple(tensors[f"{case['evidence']}.{index}"].to(dtype) for index in range(count)) if "evidence" in case else ()
    return make(case["method"], case.get("settings")).merge(Stack(name, base, experts, each, evidence=evidence))


@pytest.mark.parametrize("name", sorted(kept()[0]))
def test_another_program_gives_the_same(name: str) -> None:
    theirs, found = kept()[1][f"merged.{name}"], ours(name)
    if name in CLOSE:
        assert float((found - theirs).abs().max()) <= CLOSE[name] * float(theirs.abs().max())
    else:
        assert torch.equal(found, theirs)


@pytest.mark.parametrize("name", sorted(kept()[0]))
def test_float64_sums_say_the_same(name: str) -> None:
    exact = ours(name, torch.float64)
    assert exact.dtype == torch.float64
    found, reach = ours(name).double(), float(exact.abs().max())
    # float32 and float64 may cut at different places where two entries are equal, so a few entries may be far
    assert float(((found - exact).abs() > 1e-6 * reach).float().mean()) < 0.01


def test_the_file_covers_what_it_should_and_is_small() -> None:
    cases = kept()[0]
    assert {case["peer"] for case in cases.values()} == {"mergekit", "fusion_bench", "peft"}
    bit_equal = set(cases) - set(CLOSE)
    assert {"linear", "task_arithmetic", "ties", "model_stock", "dare_linear", "della", "emr", "peft_ties"} <= bit_equal
    assert FILE.stat().st_size < 200_000
