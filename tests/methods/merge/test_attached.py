"""Evidence named in a merge: what it changes, and what is refused."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.weight_norm import effective
from asrlife.errors import InputError
from asrlife.methods.merge import Stack, make
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.run import merge
from asrlife.methods.merge.statistics import Statistics, measure
from tests.methods.merge.folders import tuned, weights
from tests.methods.merge.shown import shown

Duo = tuple[Path, Path]


@pytest.fixture(scope="session")
def duos(
    ctc_folder: Callable[..., Path], whisper_folder: Path, lm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Duo]:
    """Two models tuned from one of each kind, each with both kinds of evidence beside it."""
    bases = {"wav2vec2": ctc_folder("wav2vec2", "layer"), "conformer": ctc_folder("wav2vec2-conformer", "layer")}
    found = {}
    for kind, base in (bases | {"whisper": whisper_folder, "lm": lm_folder}).items():
        place = tmp_path_factory.mktemp(f"{kind}s")
        found[kind] = (tuned(base, place / f"{kind}-a", 1), tuned(base, place / f"{kind}-b", 2))
        for folder in found[kind]:
            for what in ("fisher", "gram"):
                measured = measure(shown(folder, 2), what, checkpoint=Checkpoint.open(folder))  # type: ignore[arg-type]
                measured.write(folder.with_name(f"{folder.name}.{what}.safetensors"))
    return found


def config(duo: Duo, method: str, what: str | None, **more: Any) -> Any:
    named = [{"model": str(folder)} | ({"evidence": f"{folder}.{what}.safetensors"} if what else {}) for folder in duo]
    return parse({"merge_method": method, "models": named} | more)


def stack(duo: Duo, name: str, what: str) -> Stack:
    evidence = tuple(Statistics.read(Path(f"{folder}.{what}.safetensors")).tensors[name] for folder in duo)
    return Stack(name, None, tuple(weights(folder)[name] for folder in duo), {}, 0, evidence)


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "whisper", "lm"])
def test_fisher_merges_every_parameter_by_its_diagonals(duos: dict[str, Duo], kind: str, tmp_path: Path) -> None:
    duo = duos[kind]
    card = merge(config(duo, "fisher", "fisher"), tmp_path / "out")
    assert card["checked"]["ran"] and card["inputs"][0]["evidence"] == f"{duo[0]}.fisher.safetensors"
    merged, diagonals = weights(tmp_path / "out"), Statistics.read(Path(f"{duo[0]}.fisher.safetensors")).tensors
    compared = [name for name in merged if name in diagonals and name in Checkpoint.open(duo[0])]
    for name in compared:
        assert torch.equal(merged[name], make("fisher").merge(stack(duo, name, "fisher"))), name
    assert len(compared) > 15
    mean = [sum(weights(folder)[name] for folder in duo) / 2 for name in compared]  # type: ignore[arg-type]
    assert sum(not torch.allclose(merged[n], m, atol=1e-6) for n, m in zip(compared, mean, strict=True)) > len(compared) / 2


def test_fisher_merges_the_weight_of_a_pair(duos: dict[str, Duo], tmp_path: Path) -> None:
    merge(config(duos["wav2vec2"], "fisher", "fisher"), tmp_path / "out")
    path = "wav2vec2.encoder.pos_conv_embed.conv"
    pair = [f"{path}.parametrizations.weight.original{index}" for index in range(2)]
    made = [effective(*(weights(folder)[name] for name in pair)) for folder in duos["wav2vec2"]]
    evidence = tuple(Statistics.read(Path(f"{f}.fisher.safetensors")).tensors[f"{path}.weight"] for f in duos["wav2vec2"])
    wanted = make("fisher").merge(Stack(path, None, tuple(made), {}, 0, evidence))
    found = effective(*(weights(tmp_path / "out")[name] for name in pair))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def outputs_apart(duo: Duo, name: str, merged: Tensor) -> float:
    """sum_i |(W - W_i) X_i|^2 on the inputs that each model has for its own data, through their Gram matrices."""
    total = 0.0
    for folder in duo:
        gram = Statistics.read(Path(f"{folder}.gram.safetensors")).tensors[name].double()
        apart = (merged - weights(folder)[name]).double()
        total += float(((apart @ gram) * apart).sum())
    return total


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "whisper", "lm"])
def test_regmean_leaves_outputs_nearer_to_the_models_than_the_mean_does(duos: dict[str, Duo], kind: str, tmp_path: Path) -> None:
    duo = duos[kind]
    card = merge(config(duo, "regmean", "gram", parameters={"alpha": 1.0}), tmp_path / "out")
    assert card["checked"]["ran"]
    merged = weights(tmp_path / "out")
    grams = Statistics.read(Path(f"{duo[0]}.gram.safetensors")).tensors
    better = 0
    for name in grams:
        mean = sum(weights(folder)[name] for folder in duo) / 2  # type: ignore[arg-type]
        least = outputs_apart(duo, name, merged[name])
        better += least < 0.99 * outputs_apart(duo, name, mean)
        assert least <= (1 + 1e-6) * outputs_apart(duo, name, mean), name
        step = 1e-2 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
        assert least <= outputs_apart(duo, name, merged[name] + step) and least <= outputs_apart(duo, name, merged[name] - step), name
    assert better > 0.7 * len(grams) > 6  # not where both are given the same, as a conformer's positions
    bias = next(name for name in merged if name not in grams and merged[name].dim() == 1)
    torch.testing.assert_close(merged[bias], sum(weights(folder)[bias] for folder in duo) / 2)  # type: ignore[arg-type]


def test_regmean_without_evidence_is_the_mean_and_says_so(duos: dict[str, Duo], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        merge(config(duos["lm"], "regmean", None), tmp_path / "out")
    assert "regmean without evidence is the plain mean" in caplog.text and "--kind gram" in caplog.text
    name = "model.layers.0.self_attn.q_proj.weight"
    mean = sum(weights(folder)[name] for folder in duos["lm"]) / 2  # type: ignore[arg-type]
    torch.testing.assert_close(weights(tmp_path / "out")[name], mean)


def test_files_are_found_beside_the_merge(duos: dict[str, Duo], tmp_path: Path) -> None:
    one, two = duos["lm"]
    named = [{"model": path.name, "evidence": f"{path.name}.fisher.safetensors"} for path in (one, two)]
    merge(parse({"merge_method": "fisher", "models": named}), tmp_path / "out", beside=one.parent, check=False)
    assert (tmp_path / "out" / "merge_card.json").is_file()


def refusal(asked: Any, out: Path) -> str:
    """What a merge that cannot be done says; it leaves nothing."""
    with pytest.raises(InputError) as raised:
        merge(asked, out)
    assert not out.exists()
    return str(raised.value)


def test_what_does_not_fit_is_refused_by_name(duos: dict[str, Duo], tmp_path: Path) -> None:
    duo, out = duos["lm"], tmp_path / "out"
    assert re.search(
        r"lm-a has no evidence: make it with `asrlife evidence .*lm-a --kind fisher --data DATA", refusal(config(duo, "fisher", None), out)
    )
    assert re.search("is gram and fisher goes by fisher: make it with", refusal(config(duo, "fisher", "gram"), out))
    assert re.search("linear goes by weights alone", refusal(config(duo, "linear", "fisher"), out))
    swapped = [{"model": str(duo[0]), "evidence": f"{duo[1]}.fisher.safetensors"}, {"model": str(duo[1])}]
    assert re.search("lm-b has no evidence", refusal(parse({"merge_method": "fisher", "models": swapped}), out))
    swapped[1]["evidence"] = f"{duo[1]}.fisher.safetensors"
    assert re.search(r"was made for .*lm-b.*, which is not .*lm-a", refusal(parse({"merge_method": "fisher", "models": swapped}), out))
    swapped[0]["evidence"] = "nowhere.safetensors"
    assert re.search(
        "evidence of .*lm-a: there is no file 'nowhere.safetensors'", refusal(parse({"merge_method": "fisher", "models": swapped}), out)
    )
    one = [{"model": str(duo[0]), "evidence": f"{duo[0]}.gram.safetensors"}, {"model": str(duo[1])}]
    assert re.search("lm-b has no evidence", refusal(parse({"merge_method": "regmean", "models": one}), out))


def test_a_model_that_was_trained_on_is_another_one(duos: dict[str, Duo], tmp_path: Path) -> None:
    one, two = duos["lm"]
    other = tuned(one, tmp_path / one.name, 9)
    shutil.copy(f"{one}.fisher.safetensors", tmp_path / "a.safetensors")
    shutil.copy(f"{one}.fisher.json", tmp_path / "a.json")
    named = [
        {"model": str(other), "evidence": str(tmp_path / "a.safetensors")},
        {"model": str(two), "evidence": f"{two}.fisher.safetensors"},
    ]
    assert "was made for" in refusal(parse({"merge_method": "fisher", "models": named}), tmp_path / "out")


def test_evidence_of_a_half_precision_model_is_its_own(duos: dict[str, Duo], tmp_path: Path) -> None:
    """The network is loaded in float32, the files are not: either fingerprint is known."""
    halves = tuple(tuned(folder, tmp_path / folder.name, 0, 0.0, torch.bfloat16) for folder in duos["lm"])
    for folder in halves:
        measure(shown(folder, 1), "fisher", checkpoint=Checkpoint.open(folder)).write(Path(f"{folder}.fisher.safetensors"))
    merge(config((halves[0], halves[1]), "fisher", "fisher"), tmp_path / "out")
    assert weights(tmp_path / "out")["model.norm.weight"].dtype == torch.bfloat16
