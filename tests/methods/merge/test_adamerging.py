"""AdaMerging: the slope of the entropy by every coefficient, what it learns, and the merge that it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asrlife.data.corpus import Corpus
from asrlife.delta.fingerprint import fingerprint
from asrlife.errors import InputError
from asrlife.methods.merge import Stack, make
from asrlife.methods.merge.adamerging import AdaMerging
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.exhibits import of_utterances
from asrlife.methods.merge.kept import Kept
from asrlife.methods.merge.learning import Mixture, descend, group, learn
from asrlife.methods.merge.leaves import Leaves
from asrlife.methods.merge.places import opened
from asrlife.methods.merge.plan import plan
from asrlife.methods.merge.run import merge
from asrlife.methods.merge.subject import subject
from asrlife.models.load import load
from asrlife.models.rowwise import weighted
from tests.methods.merge.folders import tuned, weights
from tests.methods.merge.shown import TEXTS, Toy, shown, utterances

Trio = tuple[Path, Path, Path]


@pytest.fixture(scope="session")
def trios(
    ctc_folder: Callable[..., Path], whisper_folder: Path, lm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trio]:
    bases = {"wav2vec2": ctc_folder("wav2vec2", "layer"), "conformer": ctc_folder("wav2vec2-conformer", "layer")}
    found = {}
    for kind, base in (bases | {"whisper": whisper_folder, "lm": lm_folder}).items():
        place = tmp_path_factory.mktemp(f"ada-{kind}")
        found[kind] = (base, tuned(base, place / "a", 1), tuned(base, place / "b", 2))
    return found


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise to listen to, and a file of texts."""
    folder = tmp_path_factory.mktemp("data")
    Corpus(tuple(utterances(3))).write(folder / "audio.jsonl")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    return folder


def mixture(shown_: Any, seed: int = 0, layers: tuple[str, ...] = ("all",)) -> Mixture:
    generator = torch.Generator().manual_seed(seed)
    base = {name: leaf.detach() for name, leaf in Leaves.of(shown_.module).tensors.items()}
    vectors = {n: tuple(0.1 * torch.randn(t.shape, generator=generator) * t.std(unbiased=False) for _ in range(2)) for n, t in base.items()}
    return Mixture(base, vectors, {name: index % len(layers) for index, name in enumerate(base)}, layers)


def slope(shown_: Any, mixed: Mixture, coefficients: Tensor) -> Tensor:
    leaves = Leaves.of(shown_.module, mixed.at(coefficients))
    return mixed.slopes(leaves.gradients(shown_.unsure([0, 1], leaves.weights())))


def entropy(shown_: Any, mixed: Mixture, coefficients: Tensor, count: int = 2) -> float:
    with torch.no_grad():
        return float(shown_.unsure(range(count), Leaves.of(shown_.module, mixed.at(coefficients)).weights()).double())


def exactly(reader: Any, ids: Tensor, weights: Any) -> Tensor:
    """The scores of a language model in the precision of its weights."""
    with weighted(reader.module, weights):
        scores: Tensor = reader.module(ids[:, :-1]).logits
    return scores


def doubled(mixed: Mixture) -> Mixture:
    """The same mixture in float64."""
    vectors = {name: tuple(vector.double() for vector in each) for name, each in mixed.vectors.items()}
    return replace(mixed, base={name: tensor.double() for name, tensor in mixed.base.items()}, vectors=vectors)


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "lm"])
def test_the_slope_by_a_coefficient_is_that_of_finite_differences(
    trios: dict[str, Trio], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = shown(trios[kind][0], 2)
    mixed = mixture(listener, layers=("one", "two", "three"))
    start = torch.full((2, 3), 0.3, dtype=torch.float64)
    if kind == "lm":  # its entropies are so near to that of no knowledge that float32 rounds their differences away
        monkeypatch.setattr(type(listener), "_scores", exactly)
        # torch gives the row of padding no gradient where it is read; differences see it
        listener.module.double().get_input_embeddings().padding_idx = None
        mixed = doubled(mixed)
    found = slope(listener, mixed, start)
    for task, layer in ((0, 0), (1, 1), (0, 2)):
        step = torch.zeros_like(start)
        step[task, layer] = 1e-2
        apart = (entropy(listener, mixed, start + step) - entropy(listener, mixed, start - step)) / 2e-2
        assert float(found[task, layer]) == pytest.approx(apart, rel=0.02, abs=1e-4 if kind != "lm" else 1e-7)
    assert bool((found != 0).all())


def test_the_slope_by_hand() -> None:
    """One task, W = lambda tau: the slope is <dH/dW, tau>, which autograd through lambda gives too."""
    toy = Toy(torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.zeros(2, 2), nn.Linear(2, 2))
    base = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}
    vectors = {"0.weight": (torch.tensor([[1.0, -1.0], [0.5, 2.0]]),), "0.bias": (torch.tensor([1.0, 0.0]),)}
    mixed = Mixture(base, vectors, {"0.weight": 0, "0.bias": 0}, ("all",))
    factor = torch.tensor(0.7, requires_grad=True)
    made = {name: (factor * vector[0])[None] for name, vector in vectors.items()}
    toy.unsure([0, 1], made).backward()
    assert float(slope(toy, mixed, torch.tensor([[0.7]], dtype=torch.float64))) == pytest.approx(float(factor.grad), rel=1e-5)  # type: ignore[arg-type]


def test_the_method_by_itself_adds_task_vectors() -> None:
    base, one, two = torch.zeros(3), torch.ones(3), torch.full((3,), 4.0)
    stack = Stack("w", base, (one, two), {"weight": (0.5, 0.25)})
    assert torch.equal(make("adamerging").merge(stack), torch.full((3,), 1.5))
    assert torch.equal(make("adamerging").merge(stack), make("task_arithmetic").merge(stack))


def test_layers_are_parts_and_their_numbers() -> None:
    name = "model.decoder.layers.3.fc1.weight"
    assert (group(name, True), group(name, False)) == ("decoder.3", "all")
    assert group("lm_head.weight", True) == "output"


def test_the_same_seed_learns_the_same_and_nothing_is_changed(trios: dict[str, Trio]) -> None:
    listener = shown(trios["wav2vec2"][0])
    before, mixed, start = fingerprint(listener.module), mixture(listener), torch.full((2, 1), 0.3, dtype=torch.float64)
    method = AdaMerging(steps=4, rate=0.02, batch=2)
    runs = [descend(listener, mixed, method, start, seed, lambda: None) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].coefficients, runs[1].coefficients) and runs[0].entropies == runs[1].entropies
    assert runs[0].entropies != runs[2].entropies
    assert fingerprint(listener.module) == before and float(start.sum()) == pytest.approx(0.6)
    assert descend(listener, mixed, replace(method, steps=0), start, 0, lambda: None).entropies == ()


def test_an_interrupted_run_goes_on_to_the_same_end(trios: dict[str, Trio], tmp_path: Path) -> None:
    listener = shown(trios["lm"][0])
    mixed, method, start = mixture(listener), AdaMerging(steps=14, rate=0.02, batch=2), torch.full((2, 1), 0.3, dtype=torch.float64)
    whole = descend(listener, mixed, method, start, 0, lambda: None)
    kept, steps = Kept(tmp_path / "kept.json", "this job"), iter(range(12))
    with pytest.raises(StopIteration):
        descend(listener, mixed, method, start, 0, lambda: next(steps), kept)  # type: ignore[arg-type,return-value]
    assert Kept(tmp_path / "kept.json", "another job").read() is None
    reached = kept.read()
    assert reached is not None and len(reached["entropies"]) == 10
    again = descend(listener, mixed, method, start, 0, lambda: None, kept)
    assert torch.equal(again.coefficients, whole.coefficients) and again.entropies == whole.entropies


def asked(trio: Trio, data: Any, **parameters: Any) -> Any:
    base, *experts = map(str, trio)
    settings = {"steps": 2, "rate": 0.01, "batch": 2} | parameters
    return parse(
        {
            "merge_method": "adamerging", "base_model": base, "models": [{"model": m} for m in experts],
            "data": data, "parameters": settings,
        }
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["wav2vec2", "conformer", "whisper", "lm"])
def test_a_merge_is_task_arithmetic_with_what_was_learnt(trios: dict[str, Trio], kind: str, manifest: Path, tmp_path: Path) -> None:
    data = manifest / ("texts.txt" if kind == "lm" else "audio.jsonl")
    card = merge(asked(trios[kind], str(data)), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "coefficients.json").read_text())
    assert card["checked"]["ran"] and card["learnt"] == told and len(told["entropy"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what was kept on the way is gone"
    base, one, two = (weights(folder) for folder in trios[kind])
    merged = weights(tmp_path / "out")
    ends = ("layers.0.attention.out_proj.weight", "0.self_attn.q_proj.weight", "0.self_attn.linear_q.weight")
    name = next(name for name in merged if name.endswith(ends))
    factors = told["coefficients"][group(name, True)]
    assert factors != [0.3, 0.3] and factors == pytest.approx([0.3, 0.3], abs=0.05)
    stack = Stack(name, base[name], (one[name], two[name]), {"weight": tuple(factors)})
    assert torch.equal(merged[name], make("task_arithmetic").merge(stack))


def test_one_coefficient_for_each_task_and_weights_of_models(trios: dict[str, Trio], manifest: Path) -> None:
    config = asked(trios["lm"], {"manifest": "texts.txt", "limit": 2}, layerwise=False, steps=0, weight=2.0)
    found = learn(plan(config, opened(config), manifest))
    assert found.learnt is not None and found.learnt["coefficients"] == {"all": [0.6, 0.6]} and found.learnt["data"]["examples"] == 2


def test_blank_frames_may_be_left_out(trios: dict[str, Trio]) -> None:
    listener = shown(trios["wav2vec2"][0], 2)
    with torch.no_grad():
        every, spoken = (float(listener.unsure([0, 1], None, only)) for only in (False, True))
    batch = listener._batch([0, 1])  # type: ignore[attr-defined]
    found = listener.model.emissions(batch)  # type: ignore[attr-defined]
    parts = []
    for row, steps in enumerate(found.lengths.tolist()):
        scores = found.logits[row, :steps].detach()
        hot = scores.argmax(-1) != 0
        values = torch.distributions.Categorical(logits=scores).entropy()
        parts.append((float(values.mean()), float(values[hot].mean()) if bool(hot.any()) else 0.0))
    assert every == pytest.approx(sum(a for a, _ in parts) / 2, rel=1e-4)
    assert spoken == pytest.approx(sum(b for _, b in parts) / 2, rel=1e-4) and spoken != every


def test_what_cannot_be_learnt_is_refused(trios: dict[str, Trio], manifest: Path, tmp_path: Path) -> None:
    trio = trios["lm"]
    with pytest.raises(InputError, match="adamerging learns on examples: name a manifest"):
        asked(trio, None)
    with pytest.raises(InputError, match="linear learns nothing: leave data out"):
        parse({"merge_method": "linear", "models": [{"model": str(trio[1])}], "data": "a.txt"})
    with pytest.raises(InputError, match="data: there is no file 'none.txt'"):
        merge(asked(trio, "none.txt"), tmp_path / "out")
    with pytest.raises(InputError, match="reads texts"):
        merge(asked(trio, str(manifest / "audio.jsonl")), tmp_path / "out")
    with pytest.raises(InputError, match="are one for all tensors"):
        merge(asked(trio, str(manifest / "texts.txt"), rate=[0.1, 0.2]), tmp_path / "out")
    with pytest.raises(InputError, match="unknown parameter 'stepps'; did you mean 'steps'"):
        merge(asked(trio, str(manifest / "texts.txt"), stepps=3), tmp_path / "out")
    with pytest.raises(InputError, match="did you mean 'manifest'"):
        asked(trio, {"manifst": "a.txt"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    with pytest.raises(InputError, match="is there already"):
        merge(asked(trio, str(manifest / "texts.txt")), tmp_path / "out")


@pytest.mark.slow
def test_the_better_of_two_experts_is_found_without_labels(shared: Path) -> None:
    """The base is damaged; one task vector mends it, the other damages it as much again."""
    model = load("embedded:ctc")
    corpus = Corpus.read(shared / "speech-grid" / "transcripts.jsonl").split("dev").limit(6)
    listener = subject(model, of_utterances(corpus.utterances), "own")
    generator = torch.Generator().manual_seed(0)
    whole = {name: leaf.detach() for name, leaf in Leaves.of(model.module).tensors.items()}
    harm = {n: 0.4 * t.std(unbiased=False) * torch.randn(t.shape, generator=generator) for n, t in whole.items() if t.dim() > 1}
    more = {n: 0.4 * t.std(unbiased=False) * torch.randn(t.shape, generator=generator) for n, t in whole.items() if t.dim() > 1}
    mixed = Mixture({n: whole[n] + harm[n] for n in harm}, {n: (-harm[n], more[n]) for n in harm}, dict.fromkeys(harm, 0), ("all",))
    method = AdaMerging(steps=15, rate=0.04, batch=2)
    start = torch.full((2, 1), 0.3, dtype=torch.float64)
    found = descend(listener, mixed, method, start, 0, lambda: None).coefficients
    good, bad = found[:, 0].tolist()
    assert good > 0.5 and bad < 0.2
    before, after = (entropy(listener, mixed, factors, 6) for factors in (start, found))
    assert after < 0.9 * before
