"""SA merge: whose attention it is depends on the name."""

from __future__ import annotations

import pytest
import torch

from asrlife.errors import InputError
from asrlife.methods.merge import Stack, make
from asrlife.methods.merge.attention import SaMerge
from tests.methods.merge.stacks import scattered

ATTENTION = [
    "model.encoder.layers.{}.self_attn.q_proj.weight",
    "model.decoder.layers.{}.encoder_attn.v_proj.bias",
    "wav2vec2.encoder.layers.{}.attention.k_proj.weight",
    "wav2vec2_conformer.encoder.layers.{}.self_attn.linear_q.weight",
    "bert.encoder.layer.{}.attention.self.query.weight",
    "decoder.blocks.{}.cross_attn.value.weight",
]
OTHERS = [
    "model.encoder.layers.9.self_attn.out_proj.weight",
    "model.encoder.layers.9.fc1.weight",
    "model.encoder.conv1.weight",
    "model.decoder.embed_tokens.weight",
    "model.encoder.layers.9.self_attn_layer_norm.weight",
    "model.encoder.layers.9.self_attn.q_proj_norm.weight",
]


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_goes_over_to_the_general_model_as_layers_rise(name: str) -> None:
    method = SaMerge(keep=0.5, powers=(0, 1, 3), bounds=(4, 8))
    assert [method.share(name.format(layer)) for layer in (0, 3, 4, 7, 8, 11)] == [1, 1, 0.5, 0.5, 0.125, 0.125]


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_the_domains(name: str) -> None:
    assert SaMerge().share(name) == 1.0


def test_the_merge_is_task_arithmetic_with_those_weights() -> None:
    base, domain, general = scattered((6, 10), 2)
    name = ATTENTION[0].format(9)
    method = SaMerge()
    share = method.share(name)
    wanted = make("task_arithmetic").merge(Stack(name, base, (domain, general), {"weight": (share, 1 - share)}))
    assert share == pytest.approx(0.64) and torch.equal(method.merge(Stack(name, base, (domain, general), {})), wanted)
    torch.testing.assert_close(method.merge(Stack(OTHERS[0], base, (domain, general), {})), domain)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"powers": (1.0,)}, "a power more than bounds"),
        ({"bounds": (8, 4)}, "rising bounds"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "q_proj"}, "no group"),
        ({"keep": 1.5}, "keep"),
        ({"lambda": 0.5}, "unknown setting 'lambda'"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make("sa_merge", settings)
