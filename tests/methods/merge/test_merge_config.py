"""mergekit's YAML is read as it is; what cannot be honoured is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asrlife.errors import InputError
from asrlife.methods.merge.config import MergeConfig, parse, read
from asrlife.methods.merge.values import evaluated

# the example of mergekit's own documentation
GRADIENT = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""


def test_the_examples_of_mergekit_are_read(tmp_path: Path) -> None:
    (tmp_path / "merge.yaml").write_text(GRADIENT)
    config = read(tmp_path / "merge.yaml")
    assert config.references[0] == "TheBloke/Llama-2-13B-fp16" and len(config.references) == 4
    assert config.models is not None and config.models[1].parameters == {"density": 0.5, "weight": [0, 0.3, 0.7, 1]}
    stacked = parse(
        {
            "slices": [{"sources": [{"model": "a", "layer_range": [0, 24]}]}, {"sources": [{"model": "b", "layer_range": [8, 32]}]}],
            "merge_method": "passthrough",
            "dtype": "float16",
        }
    )
    assert stacked.references == ("a", "b")


@pytest.mark.parametrize(
    ("setting", "name", "depth", "expected"),
    [
        (0.5, "x", 0.3, 0.5),
        ([0, 0.5, 1], "x", 0.25, 0.25),
        ([0, 0.5, 1], "x", 1.0, 1.0),
        ("1e-2", "x", 0.0, 0.01),
        ([{"filter": "mlp", "value": [0, 1]}, {"value": 3}], "a.mlp.b", 0.5, 0.5),
        ([{"filter": "mlp", "value": [0, 1]}, {"value": 3}], "a.attn.b", 0.5, 3.0),
        ([{"filter": "mlp", "value": 1}], "a.attn.b", 0.5, None),
        ({"filter": "*", "value": 2}, "a", 0.5, 2.0),
    ],
)
def test_values_are_those_of_mergekit(setting: Any, name: str, depth: float, expected: float | None) -> None:
    assert evaluated(setting, name, depth, float) == expected


def test_words_and_flags_change_in_steps() -> None:
    assert [evaluated([True, False], "x", depth, bool) for depth in (0.0, 0.9, 1.0)] == [True, True, False]


MODELS = [{"model": "a"}, {"model": "b"}]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"merge_method": "tis"}, "did you mean 'ties'"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]}, "exactly one of models, slices and modules"),
        ({"models": None}, "exactly one of"),
        ({"basemodel": "a"}, "'basemodel' is not supported; did you mean 'base_model'"),
        ({"models": [{"model": "a", "paramters": {}}]}, "did you mean 'parameters'"),
        ({"models": [{"model": {"model": {"path": "a", "revision": "v1"}}}]}, "'revision'"),
        ({"models": [{"model": "a", "parameters": {"weight": []}}]}, "'weight' is an empty list"),
        ({"parameters": {"weight": [{"filter": "mlp", "values": 1}]}}, "'values'"),
        ({"parameters": {"weight": [1, {"filter": "mlp", "value": 1}]}}, "mixes"),
        ({"dtype": "bfloat"}, "did you mean 'bfloat16'"),
        ({"accumulate_dtype": "bfloat16"}, "accumulate_dtype"),
        ({"search": {}}, "'search.data' is missing"),
        ({"search": {"data": "x", "parameters": {"s": [0, 1]}, "prober": 3}}, "did you mean 'probes'"),
        ({"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [3, 3]}]}]}, "is empty"),
        (
            {"models": None, "slices": [{"sources": [{"model": m, "layer_range": [0, n]} for m, n in (("a", 2), ("b", 3))]}]},
            "2, 3 layers",
        ),
        ({"tokenizer": {"source": "base"}, "tokenizer_source": "base"}, "not both"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(over: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse({"merge_method": "ties", "models": MODELS} | over)


def test_adapters_stand_behind_their_model() -> None:
    written = [{"model": "a+b"}, {"model": {"model": {"path": "a"}, "lora": {"path": "b"}}}, {"model": {"model": "a", "lora": "b"}}]
    assert parse({"merge_method": "linear", "models": written}).references == ("a+b",)


def test_select_is_a_role_a_pattern_or_both() -> None:
    def select(value: Any) -> Any:
        return parse({"merge_method": "ties", "models": MODELS, "select": value}).select

    assert select("encoder").roles == ("encoder",)
    assert select("self_attn").pattern == "self_attn"
    assert select({"roles": ["decoder"], "layers": [0, 3]}).layers == (0, 3)


def test_a_file_that_is_no_merge_says_so(tmp_path: Path) -> None:
    for text, message in (("a: [", "not YAML"), ("- a", "mapping"), ("models: [{model: a}]", "'merge_method' is missing")):
        (tmp_path / "merge.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "merge.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent.yaml")
    assert MergeConfig.model_fields["accumulate_dtype"].default == "float32"
