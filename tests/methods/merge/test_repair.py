"""Repair of merged models: what is measured, what is folded into the weights, and what comes out as a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.exhibits import Exhibits, of_texts, of_utterances
from asrlife.methods.merge.moments import Moments
from asrlife.methods.merge.places import handle
from asrlife.methods.merge.repair import scales, surgery
from asrlife.methods.merge.repair.draft import Draft
from asrlife.methods.merge.repair.run import Repair, repair
from asrlife.methods.merge.repair.surgery import Surgery, operated
from asrlife.methods.merge.run import merge
from asrlife.methods.merge.subject import subject
from tests.methods.merge.folders import tuned, weights
from tests.methods.merge.shown import TEXTS, Toy, shown, utterances

Merged = tuple[Path, Path, Path]
KINDS = ["wav2vec2", "group", "conformer", "whisper", "lm"]


@pytest.fixture(scope="session")
def merged(
    ctc_folder: Callable[..., Path], whisper_folder: Path, lm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Merged]:
    """The mean of two models tuned from one, and the two."""
    bases = {"wav2vec2": ctc_folder("wav2vec2", "layer"), "conformer": ctc_folder("wav2vec2-conformer", "layer")}
    bases |= {"group": ctc_folder("hubert", "group"), "whisper": whisper_folder, "lm": lm_folder}
    found = {}
    for kind, base in bases.items():
        place = tmp_path_factory.mktemp(f"repair-{kind}")
        one, two = tuned(base, place / "a", 1, 0.05), tuned(base, place / "b", 2, 0.05)
        merge(parse({"merge_method": "linear", "models": [{"model": str(one)}, {"model": str(two)}]}), place / "mean")
        found[kind] = (place / "mean", one, two)
    return found


@contextmanager
def silent(task: str, total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def data(kind: str) -> Exhibits:
    return of_texts(TEXTS) if kind == "lm" else of_utterances(utterances(2 if kind == "whisper" else 3))


def repaired(kind: str, found: Merged, method: str, out: Path, **more: Any) -> dict[str, Any]:
    return repair(Repair(str(found[0]), method, **more), data(kind), out, silent)  # type: ignore[arg-type]


def test_moments_are_those_of_all_rows_whatever_they_came_in() -> None:
    rows = torch.randn(37, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    found = Moments()
    for part in (rows[:1], rows[1:20], rows[20:20], rows[20:].reshape(1, 17, 5)):
        found.add(part)
    torch.testing.assert_close(found.mean, rows.double().mean(0))
    torch.testing.assert_close(found.variance, rows.double().var(0, unbiased=False))
    assert found.count == 37


def test_batchnorm_has_the_mean_and_variance_of_all_that_it_is_given(merged: dict[str, Merged], tmp_path: Path) -> None:
    card = repaired("conformer", merged["conformer"], "batchnorm", tmp_path / "out")
    assert card["checked"]["ran"] and card["changed"] == 6 and card["method"] == "batchnorm"
    listener = subject(handle(str(tmp_path / "out")), data("conformer"))
    names = [name for name, part in listener.module.named_modules() if isinstance(part, nn.BatchNorm1d)]
    assert len(names) == 2
    for name in names:
        seen: list[Tensor] = []
        layer: Any = listener.module.get_submodule(name)
        hook = layer.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0][0].T))
        for index in range(3):
            listener.show(index)
        hook.remove()
        rows = torch.cat(seen)
        torch.testing.assert_close(layer.running_mean, rows.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, rows.var(0), rtol=1e-4, atol=1e-5)
        assert int(layer.num_batches_tracked) == 3
    before, after = weights(merged["conformer"][0]), weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.{leaf}" for name in names for leaf in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["norms", "repair"])
def test_every_unit_moves_as_the_endpoints_do_on_average(merged: dict[str, Merged], kind: str, method: str, tmp_path: Path) -> None:
    found = merged[kind]
    card = repaired(kind, found, method, tmp_path / "out")
    assert card["checked"]["ran"] and card["gap"]["after"] < 1e-4 < card["gap"]["before"]
    assert [entry["model"] for entry in card["endpoints"]] == [str(found[1]), str(found[2])], "those that the merge card names"
    lead = subject(handle(str(found[0])), data(kind), "own")  # the greedy path of the merged model leads all
    listener, ends = lead.beside(handle(str(tmp_path / "out"))), [lead.beside(handle(str(path))) for path in found[1:]]
    layers = scales.calls(listener, (scales.norms if method == "norms" else scales.units)(listener.module))
    own, (one, two) = scales.moments(listener, layers), [scales.moments(end, layers) for end in ends]
    assert len(layers) > 3 and card["layers"] == len(layers)
    for name in layers:
        wanted = (one[name].deviation + two[name].deviation) / 2
        moving = wanted > 1e-5 * wanted.max()
        torch.testing.assert_close(own[name].deviation[moving], wanted[moving], rtol=1e-4, atol=1e-6)
        if name not in card["scale_alone"]:
            mean = (one[name].mean + two[name].mean) / 2
            torch.testing.assert_close(own[name].mean[moving], mean[moving], rtol=1e-4, atol=1e-4)


def test_endpoints_count_as_they_are_weighed(merged: dict[str, Merged], tmp_path: Path) -> None:
    found = merged["lm"]
    repaired("lm", found, "norms", tmp_path / "out", endpoints=(str(found[1]), str(found[2])), weights=(1.0, 0.0))
    own, one = (scales.moments(shown(path), ["model.norm"])["model.norm"] for path in (tmp_path / "out", found[1]))
    torch.testing.assert_close(own.deviation, one.deviation, rtol=1e-4, atol=1e-6)


def test_an_affine_change_is_folded_into_any_layer(merged: dict[str, Merged]) -> None:
    from transformers.pytorch_utils import Conv1D

    gpt = nn.Sequential(Conv1D(3, 5))
    with torch.no_grad():
        gpt[0].weight.normal_()
    wav = shown(merged["wav2vec2"][0]).module
    cases = [(gpt, "0", (2, 5)), (wav, "lm_head", (4, 32)), (wav, "wav2vec2.feature_extractor.conv_layers.1.conv", (1, 16, 40))]
    cases += [(wav, "wav2vec2.encoder.pos_conv_embed.conv", (1, 32, 9)), (wav, "wav2vec2.encoder.layer_norm", (2, 32))]
    for module, name, shape in cases:
        inputs, layer = torch.randn(shape, generator=torch.Generator().manual_seed(1)), module.get_submodule(name)
        before = fingerprint(module)
        with torch.no_grad(), Draft(module) as draft:
            plain = layer(inputs)
            axis = 1 if isinstance(layer, nn.Conv1d) else -1
            factor, shift = (torch.randn(plain.shape[axis], dtype=torch.float64) for _ in range(2))
            draft.fold(name, factor.abs() + 0.5, shift)
            view = (-1, 1) if axis == 1 else (-1,)
            wanted = plain.double() * (factor.abs() + 0.5).view(view) + shift.view(view)
            torch.testing.assert_close(layer(inputs), wanted.float(), rtol=1e-4, atol=1e-4)
        assert fingerprint(module) == before, name


def test_a_draft_puts_everything_back_after_an_error(merged: dict[str, Merged]) -> None:
    module = shown(merged["conformer"][0]).module
    before, own = fingerprint(module), dict(module.named_parameters())
    with pytest.raises(RuntimeError, match="stop"), Draft(module) as draft:
        for name, tensor in own.items():
            draft.put(name, tensor + 1)
        draft.put("wav2vec2_conformer.encoder.layers.0.conv_module.batch_norm.running_mean", torch.ones(32))
        raise RuntimeError("stop")
    assert fingerprint(module) == before
    assert all(parameter is own[name] for name, parameter in module.named_parameters())


def test_surgery_takes_away_what_lies_between_two_models() -> None:
    """z' = z - relu(z_0) e_1: rank 1 says it all."""
    own = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    wanted = own.clone()
    wanted[:, 1] -= own[:, 0].clamp_min(0)
    up, down, before, after = surgery.operate(own, wanted, 2, steps=1500, rate=1e-2)
    assert up.shape == (6, 2) and down.shape == (2, 6)
    assert before == pytest.approx(float((own - wanted).abs().mean())) and after < 0.1 * before
    again = surgery.operate(own, wanted, 2, steps=1500, rate=1e-2)
    assert torch.equal(again[0], up) and again[3] == after
    still = surgery.operate(own, wanted, 2, steps=0)
    assert still[3] == still[2], "it starts where the model is as it was"


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "whisper", "lm"])
def test_surgery_brings_states_nearer_to_each_endpoint(merged: dict[str, Merged], kind: str, tmp_path: Path) -> None:
    found = merged[kind]
    card = repaired(kind, found, "surgery", tmp_path / "out", rank=4, steps=200, rate=1e-2)
    assert set(card["surgery"]) == {"a.surgery.safetensors", "b.surgery.safetensors"}
    for path, told in card["surgery"].items():
        read = Surgery.read(tmp_path / "out" / path)
        assert told["distance"]["after"] < told["distance"]["before"] and read.card["expert"] == told["expert"]
        listener = subject(handle(str(found[0])), data(kind), "own")
        plain, before = surgery.states(listener), scores(listener, kind)
        with operated(listener.module, read):
            with_it = scores(listener, kind)
        assert torch.equal(scores(listener, kind), before) and not torch.equal(with_it, before)
        _, head = listener.head
        with torch.no_grad():
            wanted = head(read.of(plain[: len(with_it)]))
        torch.testing.assert_close(with_it, wanted[:, : with_it.shape[1]].float(), rtol=1e-3, atol=1e-4)
    assert not list((tmp_path / "out").glob("model*"))


def scores(listener: Any, kind: str) -> Tensor:
    """Logits of the first example as the model itself gives them."""
    with torch.no_grad():
        if kind == "lm":
            return listener._scores(listener._ids(0), None)[0]
        batch = listener._batch([0])
        found = listener.model.emissions(batch, listener.path(0))
        return found.logits[0, : int(found.lengths[0])].clone()


def test_surgery_belongs_to_one_model(merged: dict[str, Merged], tmp_path: Path) -> None:
    repaired("lm", merged["lm"], "surgery", tmp_path / "out", rank=2, steps=2)
    path = tmp_path / "out" / "a.surgery.safetensors"
    with pytest.raises(InputError, match="the surgery was made for model"), operated(shown(merged["lm"][1]).module, Surgery.read(path)):
        pass
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match="is not the card that"):
        Surgery.read(path)
    save_file({"up": torch.zeros(1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="holds no surgery"):
        Surgery.read(tmp_path / "x.safetensors")


def test_the_model_that_is_repaired_stays_and_its_files_go_along(merged: dict[str, Merged], tmp_path: Path) -> None:
    found = merged["whisper"]
    before = {path.name: path.read_bytes() for path in found[0].iterdir()}
    repaired("whisper", found, "norms", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in found[0].iterdir()} == before
    assert set(before) | {"repair_card.json"} == {path.name for path in (tmp_path / "out").iterdir()}
    card = json.loads((tmp_path / "out" / "repair_card.json").read_text())
    assert card["fingerprint"] == fingerprint(Checkpoint.open(found[0])) and card["data"]["examples"] == 2


def test_what_cannot_be_repaired_is_said(merged: dict[str, Merged], tmp_path: Path) -> None:
    out, lm = tmp_path / "out", merged["lm"]
    with pytest.raises(InputError, match="has no BatchNorm"):
        repaired("lm", lm, "batchnorm", out)
    with pytest.raises(InputError, match="no repair 'bn': choose batchnorm, norms, repair, surgery"):
        Repair("x", "bn")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="leave the endpoints out"):
        Repair("x", "batchnorm", ("a",))
    with pytest.raises(InputError, match="give each one, 1 in all"):
        Repair("x", "norms", ("a", "b"), (0.5, 0.6))
    with pytest.raises(InputError, match="no merge card .* name the models with --endpoint"):
        repair(Repair(str(lm[1]), "norms"), data("lm"), out, silent)
    with pytest.raises(InputError, match="rank 99 of states of width 16"):
        repaired("lm", lm, "surgery", out, rank=99)
    with pytest.raises(InputError, match="another kind of model"):
        repaired("wav2vec2", merged["wav2vec2"], "repair", out, endpoints=(str(merged["whisper"][1]),))
    with pytest.raises(InputError, match="gives a folder"):
        repaired("lm", lm, "norms", tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="is there already"):
        repaired("lm", lm, "norms", lm[1])


def test_a_dead_unit_is_left_as_large_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        layer.bias.zero_()
    toy = Toy(torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.zeros(2, 2), layer)
    wanted = {"0": scales.Target(torch.tensor([1.0, 5.0]).double(), torch.tensor([2.0, 3.0]).double())}
    with Draft(toy.module) as draft:
        scales.refit(draft, toy, wanted, lambda: None)
        assert torch.equal(draft.changes["0.weight"][1], torch.zeros(2))
        assert float(draft.changes["0.bias"][1]) == 5.0
        found = scales.moments(toy, ["0"])["0"]
        assert found.deviation[0] == pytest.approx(2.0, rel=1e-5) and found.mean[0] == pytest.approx(1.0, abs=1e-5)
