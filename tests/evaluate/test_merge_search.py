"""Searches over merges whose best setting is known beforehand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.resident import ResidentSum
from asrlife.errors import InputError
from asrlife.evaluate.merge_search import PICTURE, PROBES, RESULT, beside, loaded, put_in, searched
from asrlife.evaluate.search import Found
from asrlife.methods.merge.config import parse
from asrlife.methods.merge.resident import Resident
from asrlife.methods.merge.run import merge, opened, stamp

SENTENCES, STEPS = 45, 120


@pytest.fixture(scope="session")
def sane(lm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained until the sentences are about as likely as it can make them: every change of its weights costs."""
    from asrlife.models.text import load_text

    folder = tmp_path_factory.mktemp("sane") / "model"
    model = load_text(lm_folder)
    rows = [torch.tensor([*model.ids(text), model.end]) for text in lines()]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.end)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimiser = torch.optim.Adam(model.module.parameters(), 0.02)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / STEPS)
        optimiser.zero_grad()
        model.module(ids, labels=labels).loss.backward()
        optimiser.step()
    return model.save(folder)


def lines() -> list[str]:
    names, places = ("Anna", "Boris", "Carla", "Dora", "Emil"), ("Oslo", "Rome", "Lima")
    return [f"{names[i % 5]} lives in {places[i % 3]} and works in {places[(i // 5) % 3]}" for i in range(SENTENCES)]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "dev.txt"
    path.write_text("\n".join(lines()))
    return path


def noisy(folder: Path, out: Path, spread: float = 1.0) -> Path:
    shutil.copytree(folder, out)
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(folder / "model.safetensors")
    moved = {
        name: tensor + spread * tensor.std() * torch.randn(tensor.shape, generator=generator) for name, tensor in sorted(tensors.items())
    }
    save_file(moved, out / "model.safetensors", {"format": "pt"})
    return out


def run(base: Path, expert: Path, text: Path, out: Path, **search: Any) -> Found:
    asked = {"data": str(text), "parameters": {"scale": [0, 1.5]}, "probes": 8} | search
    config = parse({"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(expert)}], "search": asked})
    assert config.search is not None
    merging = Resident(config, opened(config), tuple(config.search.parameters))
    return searched(merging, config.search, out, stamp=stamp(merging.plan))


def verdicts(found: Found) -> dict[str, str]:
    return {comparison.against: comparison.verdict for comparison in found.comparisons}


def test_noise_is_not_wanted(sane: Path, text: Path, tmp_path: Path) -> None:
    found = run(sane, noisy(sane, tmp_path / "noisy"), text, tmp_path / "out")
    assert found.winner.values == {"scale": 0.0} and found.winner is found.base
    assert verdicts(found)["default"] == "better" and "really wins" in found.conclusion
    rows = found.to_json()["probes"]
    assert found.metric == "perplexity" and all(row["low"] <= row["perplexity"] <= row["high"] for row in rows)


def test_what_was_damaged_is_mended_whole(sane: Path, text: Path, tmp_path: Path) -> None:
    broken = noisy(sane, tmp_path / "broken")
    found = run(broken, sane, text, tmp_path / "out", probes=10)
    assert found.winner.values is not None and found.winner.values["scale"] == pytest.approx(1, abs=0.1)
    assert verdicts(found)["base"] == "better"


def test_equal_models_make_no_difference(sane: Path, text: Path, tmp_path: Path) -> None:
    same = Path(shutil.copytree(sane, tmp_path / "same"))
    found = run(sane, same, text, tmp_path / "out")
    assert found.winner is found.default  # of equal ones the nearest to the default
    assert set(verdicts(found).values()) == {"no difference"} and "nothing is won" in found.conclusion
    assert "cannot tell apart" in found.ended and found.measured < 8


def test_probes_are_made_once(sane: Path, text: Path, tmp_path: Path) -> None:
    expert = noisy(sane, tmp_path / "noisy")
    first = run(sane, expert, text, tmp_path / "out", probes=5)
    assert first.measured == len(first.probes)
    again = run(sane, expert, text, tmp_path / "out", probes=5)
    assert again.measured == 0 and again.to_json()["probes"] == first.to_json()["probes"]
    more = run(sane, expert, text, tmp_path / "out", probes=6)
    assert 0 < more.measured == len(more.probes) - len(first.probes)
    less = run(sane, expert, text, tmp_path / "out", probes=5, limit=20)  # other data
    assert less.measured == len(less.probes)
    beside(tmp_path / "out", PROBES).write_text("{")
    with pytest.raises(InputError, match="remove it"):
        run(sane, expert, text, tmp_path / "out")


def test_what_is_measured_is_what_is_written(sane: Path, text: Path, tmp_path: Path) -> None:
    """The figure of the winner is that of the model that is written with its setting, read from the disk."""
    expert = noisy(sane, tmp_path / "noisy", 0.05)
    found = run(sane, expert, text, tmp_path / "out", parameters={"scale": [0.2, 0.9]}, probes=4)
    values = found.winner.values
    config = {"merge_method": "task_arithmetic", "base_model": str(sane), "models": [{"model": str(expert)}], "parameters": values}
    merge(parse(config), tmp_path / "out", check=False)
    put_in(tmp_path / "out")
    assert {RESULT, PICTURE} <= {path.name for path in (tmp_path / "out").iterdir()}
    model = loaded(Checkpoint.open(tmp_path / "out"))
    assert model.perplexity(lines()) == pytest.approx(found.to_json()["probes"][found.probes.index(found.winner)]["perplexity"], rel=1e-6)
    assert (tmp_path / "out" / PICTURE).read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "out" / RESULT).read_text())["winner"] == values


def test_several_settings_go_by_cma(sane: Path, text: Path, tmp_path: Path) -> None:
    broken = noisy(sane, tmp_path / "broken")
    models = [{"model": str(sane)}, {"model": str(noisy(sane, tmp_path / "other", 0.6))}]
    search = {"data": str(text), "limit": 20, "parameters": {"model.weight": [0, 1.5], "models.1.weight": [0, 1.5]}, "probes": 24}
    config = parse({"merge_method": "task_arithmetic", "base_model": str(broken), "models": models, "search": search})
    assert config.search is not None
    merging = Resident(config, opened(config), tuple(config.search.parameters))
    found = searched(merging, config.search, tmp_path / "out")
    assert found.way == "CMA-ES" and found.base.values is None
    chosen = found.winner.values
    assert chosen is not None and chosen["model.weight"] > chosen["models.1.weight"]
    assert verdicts(found)["base"] == verdicts(found)["default"] == "better"
    assert merging.settled(chosen).models[0].parameters == {"weight": chosen["model.weight"]}  # type: ignore[index]


def test_expressions_are_searched_too(sane: Path, text: Path, tmp_path: Path) -> None:
    broken = noisy(sane, tmp_path / "broken")
    operands = {"a": Checkpoint.open(broken), "b": Checkpoint.open(sane), "c": Checkpoint.open(broken)}
    merging = ResidentSum("a + s * (b - c)", operands, ("s",))
    asked = parse(
        {"merge_method": "linear", "models": [{"model": "x"}], "search": {"data": str(text), "parameters": {"s": [0, 1.5]}}}
    ).search
    assert asked is not None
    found = searched(merging, asked, tmp_path / "out")
    assert found.winner.values is not None and found.winner.values["s"] == pytest.approx(1, abs=0.1)
    assert verdicts(found)["base"] == "better"


def test_a_recogniser_is_searched_by_its_word_errors(tmp_path: Path) -> None:
    import asrlife
    from asrlife.models.load import ASSETS

    words = ("turn on the kitchen light", "what is the time", "set a timer for ten minutes", "turn off the radio", "stop")
    said = [{"id": str(n), "audio": f"{n}.wav", "text": word, "split": "dev" if n < 4 else "test"} for n, word in enumerate(words)]
    for row in said:
        asrlife.write(tmp_path / row["audio"], asrlife.speak(row["text"]))
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(row) for row in said))
    found = run(ASSETS / "ctc", noisy(ASSETS / "ctc", tmp_path / "noisy", 2.0), tmp_path / "all.jsonl", tmp_path / "out", probes=4)
    assert found.metric == "wer" and found.items == 4  # dev, and never test
    assert found.winner.mean <= found.base.mean < found.default.mean
    assert verdicts(found)["default"] == "better"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"split": "test"}, "cannot be tested on it any more"),
        ({"parameters": {}}, "search.parameters"),
        ({"parameters": {"scale": [1, 1]}}, "lowest and the highest"),
        ({"parameters": {"scale": 1}}, "parameters.scale"),
        ({"parameters": {"scael": [0, 1]}}, "no setting 'scael'; did you mean 'scale'"),
        ({"parameters": {"models.7.weight": [0, 1]}}, "is no setting of a model"),
        ({"parameters": {"density.weight": [0, 1]}}, "'density.weight' is no setting of a model"),
        ({"probes": 3}, "search.probes"),
        ({"metric": "wer"}, "measured by perplexity"),
        ({"metric": "bleu"}, "search.metric"),
        ({"dta": "x"}, "did you mean 'data'"),
        ({"data": "nowhere.txt"}, "no file 'nowhere.txt'"),
        ({"split": "dev"}, "no split 'dev'"),
    ],
)
def test_what_cannot_be_searched_is_named(search: dict[str, Any], message: str, sane: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(sane, sane, text, tmp_path / "out", **search)


def test_splits_of_text(sane: Path, text: Path, tmp_path: Path) -> None:
    rows = [{"text": line, "split": ("dev", "test", "devel")[n % 3]} for n, line in enumerate(lines())]
    data = tmp_path / "all.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    assert run(sane, sane, data, tmp_path / "out", probes=4).items == SENTENCES // 3
    assert run(sane, sane, data, tmp_path / "out", probes=4, split="devel").items == SENTENCES // 3
    data.write_text("\n".join(json.dumps(row) for row in rows if row["split"] == "test"))
    with pytest.raises(InputError, match="no split 'dev' to search on; it has test"):
        run(sane, sane, data, tmp_path / "out")
    data.write_text('{"txt": "a"}')
    with pytest.raises(InputError, match="all.jsonl:1: broken line"):
        run(sane, sane, data, tmp_path / "out")
