"""A merge into memory is the merge that is written, whatever the method, at every setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.errors import InputError
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.free import default, settled
from asrlife.methods.merge.resident import Resident
from asrlife.methods.merge.run import merge, opened
from tests.methods.merge.folders import tuned, weights

Trio = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def conformers(ctc_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trio:
    base, place = ctc_folder("wav2vec2-conformer", "layer"), tmp_path_factory.mktemp("conformers")
    return base, tuned(base, place / "a", 1), tuned(base, place / "b", 2)


def config(trio: Trio, method: str, **more: Any) -> Any:
    base, *experts = map(str, trio)
    based = {} if method in {"linear", "karcher"} else {"base_model": base}
    models = [{"model": model} for model in experts]
    return parse({"merge_method": method, **based, "models": models} | more)


CASES: dict[str, tuple[dict[str, Any], list[dict[str, float]]]] = {
    "task_arithmetic": ({"merge_method": "task_arithmetic"}, [{"scale": 0.0}, {"scale": 0.37}, {"scale": 1.0}, {"scale": -0.5}]),
    "ties": ({"merge_method": "ties", "parameters": {"density": 0.4}}, [{"scale": 0.7}, {"scale": 1.2}]),
    "ties density": ({"merge_method": "ties"}, [{"density": 0.2}, {"density": 0.8}]),
    "dare": ({"merge_method": "dare_linear", "parameters": {"density": 0.5}, "seed": 3}, [{"scale": 0.3}, {"scale": 0.9}]),
    "weights": ({"merge_method": "task_arithmetic"}, [{"models.0.weight": 0.2, "b.weight": -0.3}]),
    "linear": ({"merge_method": "linear"}, [{"a.weight": 0.2}, {"a.weight": 0.9}]),
    "rounded": ({"merge_method": "task_arithmetic", "dtype": "bfloat16"}, [{"scale": 0.41}]),
    "float64": ({"merge_method": "ties", "accumulate_dtype": "float64"}, [{"scale": 0.41}]),
    "select": ({"merge_method": "task_arithmetic", "select": "q_proj|linear_q"}, [{"scale": 0.41}]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_memory_and_files_hold_the_same_bits(name: str, conformers: Trio, tmp_path: Path) -> None:
    more, points = CASES[name]
    asked = config(conformers, str(more["merge_method"]), **more)
    resident = Resident(asked, opened(asked), tuple(points[0]))
    start = weights(conformers[0])
    places = {key: torch.full_like(start[key], 7).float() for key in resident.names}
    for number, values in enumerate(points):
        resident.fill(values, places)
        merge(settled(asked, values), tmp_path / str(number), check=False, fingerprints=False)
        written = weights(tmp_path / str(number))
        for key, tensor in written.items():
            if key in places:
                assert torch.equal(places[key], tensor.float()), (values, key)
            else:
                assert torch.equal(tensor, weights(resident.donor.folder)[key].to(tensor.dtype)), key


def test_a_write_is_seen_by_whoever_remembers(conformers: Trio) -> None:
    asked = config(conformers, "task_arithmetic")
    resident = Resident(asked, opened(asked), ("scale",))
    places = {key: torch.empty(tensor.shape) for key, tensor in weights(conformers[0]).items() if key in resident.names}
    before = {key: place._version for key, place in places.items()}
    resident.fill({"scale": 0.5}, places)
    assert all(place._version > before[key] for key, place in places.items())


@pytest.mark.parametrize(
    ("more", "name", "value"),
    [
        ({}, "scale", 1.0),
        ({"parameters": {"lambda": 0.4}}, "scale", 0.4),
        ({"parameters": {"lambda": 0.4}}, "lambda", 0.4),
        ({"merge_method": "ties"}, "density", 1.0),  # mergekit's, not the paper's
        ({"parameters": {"weight": 0.3}}, "models.1.weight", 0.3),
        ({"models": [{"model": "x/a", "parameters": {"weight": 0.2}}, {"model": "y/b"}]}, "a.weight", 0.2),
        ({"models": [{"model": "x/a", "parameters": {"weight": 0.2}}, {"model": "y/b"}]}, "y/b.weight", 1.0),
    ],
)
def test_defaults_are_those_of_the_merge(more: dict[str, Any], name: str, value: float) -> None:
    asked = parse({"merge_method": "task_arithmetic", "base_model": "z", "models": [{"model": "x/a"}, {"model": "y/b"}]} | more)
    assert default(asked, name) == value
    assert default(settled(asked, {name: 0.125}), name) == 0.125


@pytest.mark.parametrize(
    ("more", "name", "message"),
    [
        ({"parameters": {"weight": [0, 1]}}, "weight", "gradient"),
        ({"models": [{"model": "x/a", "parameters": {"weight": 1}}]}, "weight", "has a 'weight' of its own"),
        ({"models": [{"model": "x/a"}, {"model": "y/a"}]}, "a.weight", "could be that of 2 models"),
        ({}, "c.weight", "no setting of a model"),
        ({}, "densty", "no setting 'densty'"),
        ({}, "normalize", "not one number"),
    ],
)
def test_what_is_no_number_of_the_merge_is_named(more: dict[str, Any], name: str, message: str) -> None:
    asked = parse({"merge_method": "task_arithmetic", "base_model": "z", "models": [{"model": "x/a"}, {"model": "y/b"}]} | more)
    with pytest.raises(InputError, match=message):
        default(asked, name)


def test_another_architecture_has_no_network_to_be_measured_in(lm_folder: Path) -> None:
    depth = json.loads((lm_folder / "config.json").read_text())["num_hidden_layers"]
    slices = [{"sources": [{"model": str(lm_folder), "layer_range": [0, depth]}]}] * 2
    asked = parse({"merge_method": "passthrough", "slices": slices})
    with pytest.raises(InputError, match="whose network every merge is measured in"):
        Resident(asked, opened(asked), ("scale",))


def test_a_search_is_not_silently_left_out(lm_folder: Path, tmp_path: Path) -> None:
    asked = parse(
        {"merge_method": "linear", "models": [{"model": str(lm_folder)}], "search": {"data": "x", "parameters": {"a.weight": [0, 1]}}}
    )
    with pytest.raises(InputError, match="choose its settings first"):
        merge(asked, tmp_path / "out")


def test_an_adapted_base_is_measured_with_its_adapter(lm_folder: Path, tmp_path: Path) -> None:
    from asrlife.delta.checkpoint import Checkpoint
    from asrlife.delta.delta import Delta, LowRank
    from asrlife.delta.fingerprint import fingerprint
    from asrlife.delta.lora import write_lora
    from asrlife.evaluate.bench import places
    from asrlife.models.text import load_text

    base, name = Checkpoint.open(lm_folder), "model.layers.0.self_attn.q_proj.weight"
    factors = LowRank(torch.ones(base[name].shape[0], 1), torch.ones(1, base[name].shape[1]))
    write_lora(Delta(fingerprint(base), {name: factors}), tmp_path / "lora", base)
    expert, model = tuned(lm_folder, tmp_path / "expert", 1), load_text(lm_folder)
    asked = parse(
        {"merge_method": "task_arithmetic", "base_model": f"{lm_folder}+lora", "models": [{"model": str(expert)}], "select": "k_proj"}
    )
    resident = Resident(asked, opened(asked, tmp_path), ("scale",))
    before = model.fingerprint()
    with places(model.module, resident.donor, resident.names) as found:
        resident.fill({"scale": 0.5}, found)
        assert torch.equal(model.module.get_parameter(name), base[name] + 1)
        key = name.replace("q_proj", "k_proj")
        assert torch.allclose(model.module.get_parameter(key), (base[key] + Checkpoint.open(expert)[key]) / 2, atol=1e-6)
    assert model.fingerprint() == before
