"""Makes oracle.safetensors, what other programs give for small merges; asrlife is never asked what it thinks.

mergekit 0.1.5, fusion-bench 0.2.33 and peft 0.21.2 are installed where this runs, each as it comes from the registry; what is missing
is left as it was in the file. With `--measure` asrlife, on PYTHONPATH, is compared on larger random tensors instead, and nothing
is written.

    PYTHONPATH=. python tests/methods/merge/oracle.py [--measure]
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).with_name("oracle.safetensors")
WEIGHTS, ONES, HALF = (0.5, 0.8, -0.3), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
PLAIN: dict[str, dict[str, Any]] = {  # of mergekit: name of the case: method, settings, settings of each model, how many models, base
    "linear": {"method": "linear", "each": {"weight": WEIGHTS}, "base": False},
    "linear_sum": {"method": "linear", "settings": {"normalize": False}, "each": {"weight": WEIGHTS}, "base": False},
    "passthrough": {"method": "passthrough", "each": {"scale": (0.7,)}, "base": False},
    "task_arithmetic": {"method": "task_arithmetic", "settings": {"lambda": 0.4}, "each": {"weight": WEIGHTS}},
    "task_arithmetic_mean": {"method": "task_arithmetic", "settings": {"normalize": True}, "each": {"weight": WEIGHTS}},
    "ties": {"method": "ties", "each": {"weight": (0.5, 0.8, 0.3), "density": (0.5, 0.2, 0.9)}},
    "ties_sum": {"method": "ties", "settings": {"normalize": False, "lambda": 0.7}, "each": {"weight": WEIGHTS, "density": HALF}},
    "ties_rescaled": {"method": "ties", "settings": {"rescale": True}, "each": {"weight": ONES, "density": (0.3,) * 3}},
    "breadcrumbs": {"method": "breadcrumbs", "each": {"weight": WEIGHTS, "density": (0.5, 0.7, 0.9), "gamma": (0.01, 0.1, 0.05)}},
    "breadcrumbs_ties": {"method": "breadcrumbs_ties", "each": {"weight": (0.5, 0.8, 0.3), "density": (0.6,) * 3, "gamma": (0.1,) * 3}},
    "dare_linear": {"method": "dare_linear", "settings": {"rescale": True}, "each": {"weight": WEIGHTS, "density": HALF}},
    "dare_ties": {
        "method": "dare_ties",
        "settings": {"normalize": False, "rescale": True},
        "each": {"weight": ONES, "density": (0.4, 0.4, 0.4)},
    },
    "della": {
        "method": "della",
        "settings": {"rescale": True},
        "each": {"weight": ONES, "density": HALF, "epsilon": (0.2,) * 3},
    },
    "della_linear": {
        "method": "della_linear",
        "settings": {"rescale": False},
        "each": {"weight": WEIGHTS, "density": HALF, "epsilon": (0.1,) * 3},
    },
    "model_stock": {"method": "model_stock"},
    "model_stock_rows": {"method": "model_stock", "settings": {"filter_wise": True}},
    "sce": {"method": "sce", "settings": {"select_topk": 0.4}},
    "sce_all": {"method": "sce"},
    "ram": {"method": "ram", "settings": {"epsilon": 0.05}},
    "ramplus_tl": {"method": "ramplus_tl", "settings": {"epsilon": 0.05}},
    "slerp": {"method": "slerp", "settings": {"t": 0.3}, "count": 1},
    "nuslerp": {"method": "nuslerp", "each": {"weight": (0.4, 1.1)}, "count": 2},
    "nuslerp_plain": {"method": "nuslerp", "each": {"weight": (0.4, 1.1)}, "count": 2, "base": False},
    "nuslerp_rows": {"method": "nuslerp", "settings": {"nuslerp_flatten": False}, "each": {"weight": (0.4, 1.1)}, "count": 2},
    "nuslerp_columns": {
        "method": "nuslerp",
        "settings": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        "each": {"weight": (0.4, 1.1)},
        "count": 2,
    },
    "multislerp": {"method": "multislerp", "each": {"weight": (0.5, 0.8, 0.3)}},
    "multislerp_plain": {"method": "multislerp", "each": {"weight": (0.5, 0.8, 0.3)}, "base": False},
    "karcher": {"method": "karcher", "base": False},
    "nearswap": {"method": "nearswap", "settings": {"t": 0.02}, "count": 1},
    "arcee_fusion": {"method": "arcee_fusion", "count": 1},
}
FUSION: dict[str, dict[str, Any]] = {
    "tsv_m": {"method": "tsv_m"},
    "iso_c": {"method": "iso_c"},
    "iso_cts": {"method": "iso_cts"},
    "knots": {"method": "knots", "settings": {"divide": "count", "elect": "plain"}, "each": {"weight": ONES, "density": HALF}},
    "regmean": {"method": "regmean", "base": False, "evidence": "gram"},
    "fisher": {"method": "fisher", "base": False, "evidence": "fisher"},
    "emr": {"method": "emr"},
}
PEFT: dict[str, dict[str, Any]] = {
    "peft_ties": {
        "method": "ties",
        "settings": {"divide": "count", "elect": "plain"},
        "each": {"weight": WEIGHTS, "density": (0.4, 0.4, 0.4)},
    },
    "peft_ties_frequency": {
        "method": "ties",
        "settings": {"divide": "count", "elect": "frequency"},
        "each": {"weight": WEIGHTS, "density": (0.4, 0.4, 0.4)},
    },
    "peft_magnitude_prune": {"method": "ties", "settings": {"normalize": False}, "each": {"weight": (1.0,), "density": (0.4,)}, "count": 1},
    "peft_dare_linear": {"method": "dare_linear", "each": {"weight": WEIGHTS, "density": (0.4, 0.4, 0.4)}},
    "peft_dare_ties": {
        "method": "dare_ties",
        "settings": {"divide": "count", "elect": "plain"},
        "each": {"weight": WEIGHTS, "density": (0.4, 0.4, 0.4)},
    },
}


def given(shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """A base, three experts and what their data say, for a matrix also Gram matrices of 40 inputs.

    Experts lie away from the base by multiples of 1/256, of which sums of squares are exact in any order: no machine adds them otherwise.
    No two entries are equally far away: which of equal ones a trim keeps is an accident of the sort in mergekit and peft.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {"base": torch.round(torch.randn(shape, generator=generator) * 64) / 64}
    for index in range(3):
        sizes = torch.randperm(found["base"].numel(), generator=generator).reshape(shape) + 1.0
        found[f"expert.{index}"] = found["base"] + sizes / 256 * (torch.randint(2, shape, generator=generator) * 2 - 1)
        found[f"fisher.{index}"] = torch.rand(shape, generator=generator)
        inputs = torch.randn(40, shape[-1], generator=generator)
        found[f"gram.{index}"] = inputs.T @ inputs / 40
    return found


@contextmanager
def the_lot(name: str) -> Iterator[None]:
    """Random masks are ours, in the order of the experts, so that all else can be compared bit for bit."""
    from asrlife.methods.merge.philox import uniform

    calls = iter(range(100))

    def drawn(chance: Tensor) -> Tensor:
        lot = uniform(0, name, next(calls), chance.numel()).reshape(chance.shape)
        return (lot < chance).to(chance.dtype)

    with mock.patch("torch.bernoulli", drawn):
        yield


def with_mergekit(case: dict[str, Any], data: dict[str, Tensor], name: str) -> Tensor:
    from mergekit.merge_methods.api import merge_tensors

    models = [data[f"expert.{index}"] for index in range(counted(case))]
    based = case.get("base", True)
    tensors = [data["base"], *models] if based else models
    ids = ["base", *range(len(models))] if based else list(range(len(models)))
    settings = {**case.get("settings", {}), **{key: dict(enumerate(values)) for key, values in case.get("each", {}).items()}}
    with the_lot(name):
        return merge_tensors(tensors, case["method"], parameters=settings, ids=ids, base_index=0 if based else None)


def with_fusion(case: dict[str, Any], data: dict[str, Tensor], name: str) -> Tensor:
    from fusion_bench.method.emr_merging.utils import emr_merge
    from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights
    from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
    from fusion_bench.method.regmean.regmean import merging_with_regmean_weights
    from fusion_bench.method.task_singular_vector.utils.TSVM_utils import compute_and_sum_svd_mem_reduction

    experts = [data[f"expert.{index}"] for index in range(3)]
    vectors = [{"w": expert - data["base"]} for expert in experts]
    fishers = [{"w": data[f"fisher.{index}"]} for index in range(3)]
    grams = [{"w": data[f"gram.{index}"]} for index in range(3)]
    merged: dict[str, Callable[[], Tensor]] = {
        "tsv_m": lambda: data["base"] + compute_and_sum_svd_mem_reduction(vectors, accelerator="cpu")["w"],
        "iso_c": lambda: data["base"] + iso_c(vectors, "cpu")["w"],
        "iso_cts": lambda: data["base"] + iso_cts(vectors, 0.8, "cpu")["w"],
        "knots": lambda: data["base"] + knotted([vector["w"] for vector in vectors], case),
        "regmean": lambda: merging_with_regmean_weights({"w.weight": experts}, grams, 0.9)["w.weight"],
        "fisher": lambda: merging_with_fisher_weights({"w": experts}, fishers, torch.ones(3) / 3, False, 1e-6)["w"],
        "emr": lambda: data["base"] + emr_merge(vectors)[0]["w"],
    }
    return merged[name]()


def knotted(vectors: list[Tensor], case: dict[str, Any]) -> Tensor:
    """fusion-bench aligns, peft merges the blocks."""
    from fusion_bench.method.knots.knots_utils import subspace_alignment
    from peft.utils.merge_utils import ties

    basis, lengths, blocks = subspace_alignment(vectors)
    each = case["each"]
    return basis @ ties([lengths[:, None] * block for block in blocks], torch.tensor(each["weight"]), each["density"][0])


def with_peft(case: dict[str, Any], data: dict[str, Tensor], name: str) -> Tensor:
    from peft.utils import merge_utils

    vectors = [data[f"expert.{index}"] - data["base"] for index in range(counted(case))]
    weights, density = torch.tensor(case["each"]["weight"]), case["each"]["density"][0]
    further = {"majority_sign_method": "frequency"} if name.endswith("frequency") else {}
    function = getattr(merge_utils, name.removeprefix("peft_").removesuffix("_frequency"))
    with the_lot(name):
        return data["base"] + function(vectors, weights, density, **further)


def counted(case: dict[str, Any]) -> int:
    return case.get("count") or len(next(iter(case.get("each", {"": WEIGHTS}).values())))


PEERS = {"mergekit": (PLAIN, with_mergekit), "fusion_bench": (FUSION, with_fusion), "peft": (PEFT, with_peft)}


def main() -> None:
    """Write what the programs say, or measure how far asrlife is from it."""
    for peer, (cases, merge) in PEERS.items():
        if importlib.util.find_spec(peer) is None:
            print(f"{peer} is not installed: its cases stay as they are")
        elif "--measure" in sys.argv:
            measure(peer, cases, merge)
        else:
            write(peer, cases, merge)


def write(peer: str, cases: dict[str, dict[str, Any]], merge: Callable[..., Tensor]) -> None:
    tensors, known = {}, {}
    if HERE.exists():
        with safe_open(HERE, "pt") as file:
            known = json.loads(file.metadata()["cases"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    for key, tensor in given((12, 20), 1).items():
        tensors[key] = tensor
    for name, case in cases.items():
        known[name] = {**case, "peer": peer}
        tensors[f"merged.{name}"] = merge(case, given((12, 20), 1), name).contiguous()
    save_file(tensors, HERE, {"cases": json.dumps(known)})


def measure(peer: str, cases: dict[str, dict[str, Any]], merge: Callable[..., Tensor]) -> None:
    from asrlife.methods.merge import METHODS, Stack, make

    for name, case in cases.items():
        worst, equal, total = 0.0, 0, 0
        for shape in ((64, 48), (48, 96), (37, 41)):
            data = scattered(shape)
            theirs = merge(case, data, name)
            evidence = tuple(data[f"{case['evidence']}.{index}"] for index in range(3)) if "evidence" in case else ()
            experts = tuple(data[f"expert.{index}"] for index in range(counted(case)))
            stack = Stack(name, data["base"] if case.get("base", True) else None, experts, case.get("each", {}), evidence=evidence)
            ours = make(METHODS[case["method"]].name, case.get("settings")).merge(stack)
            worst, equal, total = max(worst, float((ours - theirs).abs().max())), equal + int((ours == theirs).sum()), total + ours.numel()
        print(f"{peer:12} {name:22} equal entries {equal / total:8.4%}, largest difference {worst:.2e}")


def scattered(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """As `given`, without its exact sums: a base of N(0, 1), experts N(0, 0.1) away."""
    generator = torch.Generator().manual_seed(7)
    found = given(shape, 7)
    found["base"] = torch.randn(shape, generator=generator)
    for index in range(3):
        found[f"expert.{index}"] = found["base"] + torch.randn(shape, generator=generator) * 0.1
    return found


if __name__ == "__main__":
    main()
