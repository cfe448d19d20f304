"""A real Llama, with heads that share keys and values, goes through tracing, editing and merging as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrlife.data.edit import EditRequest
from asrlife.delta.weights import applied
from asrlife.methods.edit.edit import bench, edit
from asrlife.methods.edit.registry import EDITORS
from asrlife.methods.edit.sites import sites
from asrlife.methods.edit.tracing import blur, trace
from asrlife.models.text import TextModel, load_text

GIRL = EditRequest("little girl", "Once upon a time, there was a little girl named", "Sue")
DOG = EditRequest("big dog", "Once upon a time, there was a big dog named", "Tom")
LAYERS = (1, 2)


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    if not (shared / "lm-stories260k").is_dir():
        pytest.skip("no lm-stories260k among the shared data")
    return shared / "lm-stories260k"


@pytest.fixture(scope="module")
def model(folder: Path) -> TextModel:
    return load_text(folder)


def test_facts_stand_in_the_feed_forward_and_not_where_heads_share(model: TextModel) -> None:
    assert [site.name for site in sites(model.module)] == [f"model.layers.{n}.mlp.down_proj.weight" for n in range(5)]


@pytest.mark.parametrize("kind", ["states", "feed-forward", "attention"])
def test_it_is_traced(model: TextModel, kind: str) -> None:
    found = trace(model, GIRL.prompt, GIRL.subject, blur(model, [GIRL.subject, DOG.subject]), kind, samples=4)  # type: ignore[arg-type]
    assert "".join(found.tokens).replace(" ", "").endswith("littlegirlnamed") and found.total > 0.1
    assert found.effect.shape == (len(found.tokens), 5) and bool(found.effect.isfinite().all())
    if kind == "states":
        assert float(found.effect[-1, -1]) == pytest.approx(found.total, abs=1e-4)


@pytest.mark.parametrize("name", sorted(EDITORS))
def test_it_says_another_name_after_an_edit_by_every_editor(model: TextModel, name: str) -> None:
    before = model.fingerprint()
    editor = EDITORS[name](layers=LAYERS)
    at = bench(model, editor, seed=1)
    delta = edit(model, [DOG], editor, at=at)
    assert not model.complete([DOG.prompt], 4)[0].strip().startswith(DOG.target)
    with applied(model.module, delta):
        assert model.complete([DOG.prompt], 4)[0].strip().startswith(DOG.target)
    assert model.fingerprint() == before


def test_edits_merge_and_the_file_goes_through_merge(model: TextModel, folder: Path, tmp_path: Path) -> None:
    from asrlife.delta.arithmetic import Combination, write
    from asrlife.delta.checkpoint import Checkpoint
    from asrlife.delta.expression import parse
    from asrlife.delta.file import save
    from asrlife.methods.merge.config import read
    from asrlife.methods.merge.plan import plan
    from asrlife.methods.merge.run import opened, run

    editor = EDITORS["emmet"](layers=LAYERS)
    at = bench(model, editor, seed=1)
    girl, dog = (edit(model, [one], editor, at=at) for one in (GIRL, DOG))
    with applied(model.module, girl + dog):
        said = model.complete([GIRL.prompt, DOG.prompt], 4)
    assert [text.strip()[:3] for text in said] == ["Sue", "Tom"]
    for name, one in {"girl": girl, "dog": dog}.items():
        save(one, tmp_path / f"{name}.safetensors")
        write(Combination(parse("base + edit"), {"base": Checkpoint.open(folder), "edit": one}), tmp_path / name)
    config = tmp_path / "merge.yaml"
    experts = "".join(f"  - model: {tmp_path / name}\n    parameters: {{weight: 1.0}}\n" for name in ("girl", "dog"))
    config.write_text(f"merge_method: task_arithmetic\nbase_model: {folder}\nmodels:\n{experts}dtype: float32\n")
    wanted = read(config)
    run(plan(wanted, opened(wanted)), tmp_path / "merged")
    merged = load_text(tmp_path / "merged")
    assert [text.strip()[:3] for text in merged.complete([GIRL.prompt, DOG.prompt], 4)] == ["Sue", "Tom"]
    with applied(model.module, girl + dog):
        for name, weight in model.module.state_dict().items():
            torch.testing.assert_close(merged.module.state_dict()[name], weight, atol=1e-5, rtol=0)
