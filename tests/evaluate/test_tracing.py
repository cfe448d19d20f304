"""Averages of traces against sums by hand, their tables, and the heat maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asrlife.data.world.facts import Fact, make
from asrlife.errors import InputError
from asrlife.evaluate.tracing import Averaged, average, known, named, prompt_table, shown
from asrlife.evaluate.tracing_pictures import mean_picture, prompt_picture
from asrlife.methods.edit.audio_tracing import Window
from asrlife.methods.edit.tracing import ROLES, Trace, blur, trace
from asrlife.models.text import TextModel, load_text


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text("embedded:lm")


def traced(tokens: int, subject: range, seed: int, high: float = 1.0) -> Trace:
    effect = torch.rand(tokens, 2, generator=torch.Generator().manual_seed(seed)) - 0.3
    return Trace("states", tuple(f" t{n}" for n in range(tokens)), subject, "x", high, 0.1, effect)


def test_tokens_of_a_role_are_averaged_in_a_prompt_and_prompts_weigh_the_same() -> None:
    one, two = traced(8, range(1, 5), 0), traced(5, range(0, 1), 1)
    rows = Averaged((one, two)).rows
    assert list(rows) == list(ROLES)
    middle, last = rows["middle subject tokens"], rows["last subject token"]
    assert [effect.facts for effect in middle] == [1, 1] and last[0].facts == 2
    assert middle[1].mean == pytest.approx(float(one.effect[2:4, 1].mean()))
    assert last[0].mean == pytest.approx(float(one.effect[4, 0] + two.effect[0, 0]) / 2)
    assert rows["further tokens"][0].mean == pytest.approx(float(one.effect[6, 0] + two.effect[2:4, 0].mean()) / 2)
    assert all(effect.low <= effect.mean <= effect.high for effects in rows.values() for effect in effects)


def test_the_interval_of_the_total_covers_its_mean_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        total = Averaged(tuple(traced(4, range(1, 2), 0, high) for high in 0.6 + 0.1 * rng.standard_normal(40))).total
        inside += total.low <= 0.5 <= total.high
    assert 85 <= inside <= 100  # 95 are due


def test_a_fact_that_the_model_does_not_say_is_not_traced(model: TextModel) -> None:
    world = make()
    right = world.split("edit_dev")[:3]
    wrong = Fact(right[0].subject, right[0].relation, world.target(right[0]))
    found = known(model, [*right, wrong])
    assert [(one.subject, one.target) for one in found] == [(fact.subject, fact.object) for fact in right]
    for facts in ([wrong], []):
        with pytest.raises(InputError, match="says none of"):
            known(model, facts)


def test_the_average_of_a_model_is_that_of_its_traces(model: TextModel, tmp_path: Path) -> None:
    requests = known(model, make().split("edit_dev")[:3])
    found = average(model, requests, "feed-forward", 2, samples=2, seed=5)
    noise = blur(model, [request.subject for request in requests])
    alone = trace(model, requests[1].prompt, requests[1].subject, noise, "feed-forward", 2, 2, seed=6)
    assert torch.equal(found.traces[1].effect, alone.effect)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["facts"] == 3 and told["window"] == 2 and told["total"]["mean"] == pytest.approx(told["clean"] - told["corrupted"])
    assert len(told["effects"]) == model.module.config.num_hidden_layers * len(found.rows) and len(found.table().rows) == len(found.rows)
    mean_picture([found], tmp_path / "mean.png")
    prompt_picture([alone], tmp_path / "prompt.png", 2)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("mean.png", "prompt.png"))
    with pytest.raises(InputError, match="no traces"):
        Averaged(())


def test_rows_are_named_for_people() -> None:
    assert (shown(" Needle"), shown("  ")) == ("Needle", "␣␣")
    table = prompt_table(traced(3, range(1, 2), 0), 1)
    assert [row[0] for row in table.rows] == ["t0", "t1*", "t2"]
    small = Trace("states", ("a", "b"), range(0, 1), "x", 1.0, 0.5, torch.tensor([[-1e-5, 0.1234], [-0.5, 0.0]]))
    assert [row[1:] for row in prompt_table(small, 1).rows] == [["0.0", "12.3"], ["-50.0", "0.0"]]
    span = (1.0, 1.4)
    assert [named(Window("word", *span), span), named(Window("before", 0.0, 1.0), span)] == ["word*", "before"]
    assert [named(Window("window", start, start + 0.2), span) for start in (0.85, 1.0, 1.35)] == ["0.85 s", "1.00 s*", "1.35 s"]
