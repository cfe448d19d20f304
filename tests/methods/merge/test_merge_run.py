"""Merges of real (tiny, random) checkpoints: what comes out, what is refused, and that it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.weight_norm import effective
from asrlife.errors import InputError
from asrlife.methods.merge import Stack, make
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.run import merge
from tests.methods.merge.folders import tuned, weights

Trio = tuple[Path, Path, Path]


@pytest.fixture(scope="session")
def conformer(ctc_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """A wav2vec2-conformer, whose convolutions have BatchNorm, and two that were tuned from it."""
    base, place = ctc_folder("wav2vec2-conformer", "layer"), tmp_path_factory.mktemp("conformers")
    return base, tuned(base, place / "a", 1), tuned(base, place / "b", 2)


@pytest.fixture(scope="session")
def whispers(whisper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    place = tmp_path_factory.mktemp("whispers")
    return whisper_folder, tuned(whisper_folder, place / "a", 1), tuned(whisper_folder, place / "b", 2)


@pytest.fixture(scope="session")
def llamas(lm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    place = tmp_path_factory.mktemp("llamas")
    return lm_folder, tuned(lm_folder, place / "a", 1), tuned(lm_folder, place / "b", 2)


def config(trio: Trio, method: str = "task_arithmetic", **more: Any) -> Any:
    base, *experts = map(str, trio)
    return parse({"merge_method": method, "base_model": base, "models": [{"model": model} for model in experts]} | more)


def by_hand(trio: Trio, method: str, name: str, settings: Any = None, **each: tuple[float, ...]) -> Tensor:
    base, *experts = (weights(folder)[name].float() for folder in trio)
    return make(method, settings).merge(Stack(name, base, tuple(experts), each))


def test_whisper_transcribes_after_merging(whispers: Trio, tmp_path: Path) -> None:
    card = merge(config(whispers, "ties", parameters={"density": 0.5}), tmp_path / "out")
    assert card["checked"]["ran"] and isinstance(card["checked"]["heard"], str)
    merged = weights(tmp_path / "out")
    assert merged.keys() == weights(whispers[0]).keys()
    for name in ("model.encoder.layers.0.fc1.weight", "model.decoder.layers.1.encoder_attn.q_proj.bias"):
        assert torch.equal(merged[name], by_hand(whispers, "ties", name, density=(0.5, 0.5)))
    carried = {path.name for path in whispers[0].iterdir()}
    assert carried <= {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "merge_card.json").read_text()) == card


def test_a_conformer_with_batch_norm_transcribes_after_merging(conformer: Trio, tmp_path: Path) -> None:
    card = merge(config(conformer), tmp_path / "out")
    assert card["checked"]["ran"] and card["batchnorm"]["averaged"] > 0 and card["tensors"]["pair"] == 1
    merged, every = weights(tmp_path / "out"), [weights(folder) for folder in conformer]
    for name, tensor in merged.items():
        if name.endswith(("running_mean", "running_var")):
            assert torch.allclose(tensor, (every[1][name] + every[2][name]) / 2, atol=1e-7), name
        elif name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, every[0][name])
        elif "parametrizations" not in name:
            assert torch.equal(tensor, by_hand(conformer, "task_arithmetic", name)), name


def test_batch_norm_is_averaged_by_what_was_counted(conformer: Trio, tmp_path: Path) -> None:
    counted = []
    for folder, count in zip(conformer, (5, 30, 10), strict=True):
        tensors = {n: torch.tensor(count) if n.endswith("num_batches_tracked") else t for n, t in weights(folder).items()}
        counted.append(tmp_path / folder.name)
        shutil.copytree(folder, counted[-1])
        save_file(tensors, counted[-1] / "model.safetensors", {"format": "pt"})
    trio = (counted[0], counted[1], counted[2])
    name = next(name for name in weights(trio[0]) if name.endswith("running_mean"))
    base, one, other = (weights(folder)[name] for folder in trio)
    merge(config(trio), tmp_path / "both", check=False)
    assert torch.allclose(weights(tmp_path / "both")[name], (3 * one + other) / 4, atol=1e-7)
    away = [{"model": str(trio[1]), "parameters": {"weight": -1}}]
    merge(config(trio, models=away), tmp_path / "away", check=False)  # what is taken away has no say
    assert torch.equal(weights(tmp_path / "away")[name], base)


def test_weight_norm_is_merged_on_the_weight_it_makes(conformer: Trio, tmp_path: Path) -> None:
    merge(config(conformer), tmp_path / "out", check=False)
    stem = next(n for n in weights(conformer[0]) if n.endswith("original0")).removesuffix("0")
    made = [effective(found[f"{stem}0"], found[f"{stem}1"]) for found in map(weights, (*conformer, tmp_path / "out"))]
    expected = make("task_arithmetic").merge(Stack("w", made[0], (made[1], made[2]), {}))
    assert torch.allclose(made[3], expected, atol=1e-6)
    naive = by_hand(conformer, "task_arithmetic", f"{stem}1")
    assert not torch.allclose(weights(tmp_path / "out")[f"{stem}1"], naive, atol=1e-4)


def test_a_language_model_is_run_and_its_head_stays_tied(llamas: Trio, tmp_path: Path) -> None:
    card = merge(config(llamas, "linear", base_model=None, models=[{"model": str(m)} for m in llamas]), tmp_path / "out")
    assert card["checked"]["logits"][:2] == [1, 3]
    assert Checkpoint.open(tmp_path / "out").stored.keys() == Checkpoint.open(llamas[0]).stored.keys()


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "model_stock"])
def test_shards_in_and_out_hold_the_same_bytes(method: str, kernels: bool, llamas: Trio, tmp_path: Path) -> None:
    whole = config(llamas, method, seed=5)
    merge(whole, tmp_path / "whole", kernels=kernels, check=False, fingerprints=False)
    merge(whole, tmp_path / "cut", shard_size=Checkpoint.open(llamas[0]).nbytes // 4, kernels=not kernels, check=False, fingerprints=False)
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 2
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    again = config((llamas[0], tmp_path / "cut", llamas[2]), models=[{"model": str(tmp_path / "cut")}])
    merge(again, tmp_path / "again", check=False, fingerprints=False)  # base + 1 * (cut - base), from shards
    assert all(torch.allclose(tensor, one[name], atol=1e-6) for name, tensor in weights(tmp_path / "again").items())


def test_dtypes_are_rounded_once(llamas: Trio, tmp_path: Path) -> None:
    halves = tuple(tuned(folder, tmp_path / f"half{i}", i, 0.01, torch.bfloat16) for i, folder in enumerate(llamas))
    trio = (halves[0], halves[1], halves[2])
    merge(config(trio), tmp_path / "bf16")
    merge(config(trio, dtype="float32"), tmp_path / "f32")
    merge(config(trio, accumulate_dtype="float64", out_dtype="float32"), tmp_path / "f64")
    for name, tensor in weights(tmp_path / "bf16").items():
        assert tensor.dtype == torch.bfloat16
        expected = by_hand(trio, "task_arithmetic", name)
        assert torch.equal(tensor, expected.bfloat16()) and torch.equal(weights(tmp_path / "f32")[name], expected)
        assert torch.allclose(weights(tmp_path / "f64")[name], expected, atol=1e-6)
    written = json.loads((tmp_path / "f32" / "config.json").read_text())
    assert "float32" in (written.get("dtype"), written.get("torch_dtype"))


def test_select_leaves_the_rest_as_in_the_base(whispers: Trio, tmp_path: Path) -> None:
    merge(config(whispers, select="encoder"), tmp_path / "out", check=False)
    base = weights(whispers[0])
    for name, tensor in weights(tmp_path / "out").items():
        assert torch.equal(tensor, base[name]) == (not name.startswith("model.encoder.")), name


def test_modules_name_the_stacks_that_names_have(whispers: Trio, tmp_path: Path) -> None:
    modules = {"decoder": {"models": [{"model": str(whispers[1])}]}}
    merge(config(whispers, models=None, modules=modules), tmp_path / "out", check=False)
    base, expert = weights(whispers[0]), weights(whispers[1])
    for name, tensor in weights(tmp_path / "out").items():
        assert torch.allclose(tensor, (expert if name.startswith("model.decoder.") else base)[name], atol=1e-6), name
    with pytest.raises(InputError, match="no module 'decodr'; did you mean 'decoder'"):
        merge(config(whispers, models=None, modules={"decodr": modules["decoder"]}), tmp_path / "never")


def test_precedence_and_gradients(llamas: Trio, tmp_path: Path) -> None:
    last = max(int(name.split("layers.")[1].split(".")[0]) for name in weights(llamas[0]) if "layers." in name)
    models = [
        {"model": str(llamas[1]), "parameters": {"weight": [{"filter": "mlp", "value": 0.25}, {"value": [0, 1]}]}},
        {"model": str(llamas[2])},
    ]
    merge(config(llamas, models=models, parameters={"weight": 0.5, "lambda": 2.0}), tmp_path / "out", check=False)
    merged = weights(tmp_path / "out")
    for layer, part, weight in ((0, "self_attn.q_proj", 0.0), (last, "self_attn.q_proj", 1.0), (last, "mlp.up_proj", 0.25)):
        name = f"model.layers.{layer}.{part}.weight"
        assert torch.equal(merged[name], by_hand(llamas, "task_arithmetic", name, {"scale": 2.0}, weight=(weight, 0.5))), name


def test_slices_stack_layers_anew(llamas: Trio, tmp_path: Path) -> None:
    _, one, other = map(str, llamas)
    depth = json.loads((llamas[0] / "config.json").read_text())["num_hidden_layers"]
    slices = [{"sources": [{"model": one, "layer_range": [0, depth]}]}, {"sources": [{"model": other, "layer_range": [depth - 1, depth]}]}]
    card = merge(parse({"merge_method": "passthrough", "slices": slices}), tmp_path / "out")
    assert card["checked"]["ran"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == depth + 1
    merged, last = weights(tmp_path / "out"), weights(llamas[2])
    assert torch.equal(merged[f"model.layers.{depth}.mlp.up_proj.weight"], last[f"model.layers.{depth - 1}.mlp.up_proj.weight"])
    assert torch.equal(merged["model.norm.weight"], last["model.norm.weight"])
    slices[1]["sources"][0]["layer_range"] = [depth, depth + 1]
    with pytest.raises(InputError, match=f"has {depth} layers"):
        merge(parse({"merge_method": "passthrough", "slices": slices}), tmp_path / "never")


def changed(folder: Path, out: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    shutil.copytree(folder, out)
    tensors = weights(folder)
    change(tensors)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_missing_extra_and_misshapen_tensors_are_named(llamas: Trio, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    changes: dict[str, Callable[[dict[str, Tensor]], Any]] = {
        "lacks": lambda tensors: tensors.pop(name),
        "has 'model.more.weight' that": lambda tensors: tensors.update({"model.more.weight": torch.zeros(3)}),
        "shapes differ": lambda tensors: tensors.update({name: torch.zeros(3, 4)}),
    }
    for number, (message, change) in enumerate(changes.items()):
        other = changed(llamas[1], tmp_path / str(number), change)
        with pytest.raises(InputError, match=message) as error:
            merge(config((llamas[0], other, llamas[2])), tmp_path / "out")
        assert "up_proj" in str(error.value) or "more" in str(error.value)
        merge(config((llamas[0], other, llamas[2]), select="q_proj"), tmp_path / f"out{number}", check=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base_model": None}, "needs base_model"),
        ({"merge_method": "linear"}, "without a base"),
        ({"parameters": {"densty": 1}}, "unknown parameter 'densty'; did you mean"),
        ({"parameters": {"weight": "much"}}, "give a number"),
        ({"parameters": {"normalize": 3}}, "normalize"),
        ({"select": "no such tensor"}, "no tensor is"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "pad_to_multiple_of"),
        ({"tokenizer_source": "elsewhere"}, "is none of the models"),
        ({"chat_template": "chatml"}, "chat_template 'chatml'"),
        ({"merge_method": "fisher", "base_model": None}, "fisher"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(more: dict[str, Any], message: str, llamas: Trio, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        merge(config(llamas) if not more else parse(config(llamas).model_dump(exclude_unset=True) | more), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_tokenizers_and_templates(llamas: Trio, tmp_path: Path) -> None:
    merge(config(llamas, tokenizer={"source": "union"}, chat_template="{{ messages }}"), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    other = tmp_path / "other"
    shutil.copytree(llamas[1], other)
    speller = json.loads((other / "tokenizer.json").read_text())
    speller["added_tokens"] = [*speller.get("added_tokens", []), {"id": 999, "content": "<new>"}]
    (other / "tokenizer.json").write_text(json.dumps(speller))
    with pytest.raises(InputError, match=r"other has no tokenizer that loads"):
        merge(config((llamas[0], other, llamas[2]), tokenizer_source="base"), tmp_path / "never")


def test_what_is_interrupted_leaves_no_half_file_and_goes_on(llamas: Trio, tmp_path: Path) -> None:
    wanted, out, done = config(llamas, "ties"), tmp_path / "out", []

    def stop() -> None:
        done.append(1)
        if len(done) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(wanted, out, shard_size=Checkpoint.open(llamas[0]).nbytes // 6, advance=stop, fingerprints=False)
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".out.partial").glob("*.safetensors")}
    assert kept and not list((tmp_path / ".out.partial").glob("*.begun"))
    merge(wanted, out, shard_size=Checkpoint.open(llamas[0]).nbytes // 6, fingerprints=False)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors") if path.name in kept} == kept
    merge(wanted, tmp_path / "fresh", fingerprints=False, check=False)
    again, fresh = weights(out), weights(tmp_path / "fresh")
    assert all(torch.equal(again[name], fresh[name]) for name in fresh) and not (tmp_path / ".out.partial").exists()


def test_another_merge_does_not_go_on_from_what_one_left(llamas: Trio, tmp_path: Path) -> None:
    def stop() -> None:
        if list((tmp_path / ".out.partial").glob("*.safetensors")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(config(llamas, "ties"), tmp_path / "out", shard_size=Checkpoint.open(llamas[0]).nbytes // 6, advance=stop, fingerprints=False)
    merge(
        config(llamas, "task_arithmetic"),
        tmp_path / "out",
        shard_size=Checkpoint.open(llamas[0]).nbytes // 6,
        fingerprints=False,
        check=False,
    )
    name = sorted(weights(llamas[0]))[0]
    assert torch.equal(weights(tmp_path / "out")[name], by_hand(llamas, "task_arithmetic", name))


def test_what_does_not_run_is_no_success(llamas: Trio, tmp_path: Path) -> None:
    broken = tuple(changed(folder, tmp_path / folder.name, lambda tensors: tensors.pop("model.norm.weight")) for folder in llamas)
    with pytest.raises(InputError, match=r"lacks 1 weights such as model.norm.weight.*out.failed"):
        merge(config((broken[0], broken[1], broken[2])), tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tmp_path / "out.failed").is_dir()


@pytest.mark.parametrize("method", ["task_arithmetic", "model_stock"])
def test_infinite_results_are_refused_by_name(method: str, llamas: Trio, tmp_path: Path) -> None:
    def poison(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")

    bad = changed(llamas[1], tmp_path / "bad", poison)
    with pytest.raises(InputError, match="up_proj.weight' comes out NaN"):
        merge(config((llamas[0], bad, llamas[2]), method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lone_file_gives_a_lone_file(llamas: Trio, tmp_path: Path) -> None:
    files = tuple(folder / "model.safetensors" for folder in llamas)
    card = merge(config((files[0], files[1], files[2])), tmp_path / "out.safetensors")
    assert card["checked"] is None and [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_inputs_are_on_the_card_by_what_they_hold(llamas: Trio, tmp_path: Path) -> None:
    card = merge(config(llamas, seed=7), tmp_path / "out", check=False)
    assert [entry["role"] for entry in card["inputs"]] == ["base", "expert", "expert"] and card["seed"] == 7
    assert len({entry["fingerprint"] for entry in card["inputs"]}) == 3 and card["method"] == "task_arithmetic"


def test_an_adapter_takes_part_without_a_model_of_its_own(llamas: Trio, tmp_path: Path) -> None:
    from asrlife.delta.delta import Delta, LowRank
    from asrlife.delta.fingerprint import fingerprint
    from asrlife.delta.lora import write_lora

    base, name = Checkpoint.open(llamas[0]), "model.layers.0.self_attn.q_proj.weight"
    factors = LowRank(torch.randn(base[name].shape[0], 2), torch.randn(2, base[name].shape[1]))
    write_lora(Delta(fingerprint(base), {name: factors}), tmp_path / "lora", base)
    models = [{"model": f"{llamas[0]}+lora"}, {"model": str(llamas[1])}]
    card = merge(config(llamas, models=models, parameters={"lambda": 0.5}), tmp_path / "out", beside=tmp_path)
    merged, one, other = weights(tmp_path / "out"), weights(llamas[0]), weights(llamas[1])
    assert card["checked"]["ran"] and len({entry["fingerprint"] for entry in card["inputs"]}) == 3
    for key, tensor in merged.items():
        expected = one[key] + 0.5 * (other[key] - one[key] + (factors.dense() if key == name else 0))
        assert torch.allclose(tensor, expected, atol=1e-6), key
    assert {path.name for path in tmp_path.iterdir()} == {"lora", "out"}
