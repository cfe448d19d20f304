"""Roles and depths by name, on the names that real architectures give their tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Delta, Dense, between
from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.roles import ROLES, chosen, depths, place, weight_norms
from asrlife.errors import InputError

PLACES = {
    # Whisper
    "model.encoder.conv1.weight": ("conv", "conv", None),
    "model.encoder.embed_positions.weight": ("embedding", "encoder", None),
    "model.encoder.layers.3.self_attn.q_proj.weight": ("encoder", "encoder", 3),
    "model.encoder.layers.3.self_attn_layer_norm.bias": ("norm", "encoder", 3),
    "model.encoder.layer_norm.weight": ("norm", "encoder", None),
    "model.decoder.embed_tokens.weight": ("embedding", "decoder", None),
    "model.decoder.layers.11.encoder_attn.out_proj.bias": ("cross-attention", "decoder", 11),
    "model.decoder.layers.11.encoder_attn_layer_norm.weight": ("norm", "decoder", 11),
    "model.decoder.layers.0.fc1.weight": ("decoder", "decoder", 0),
    "proj_out.weight": ("head", "output", None),
    # wav2vec2, HuBERT, WavLM, conformer
    "wav2vec2.masked_spec_embed": ("embedding", "encoder", None),
    "wav2vec2.feature_extractor.conv_layers.6.conv.weight": ("conv", "conv", 6),
    "wav2vec2.feature_extractor.conv_layers.0.layer_norm.weight": ("norm", "conv", 0),
    "hubert.feature_projection.projection.weight": ("encoder", "encoder", None),
    "hubert.encoder.pos_conv_embed.conv.bias": ("conv", "conv", None),
    "hubert.encoder.pos_conv_embed.conv.weight_g": ("weight-norm", "conv", None),
    "wavlm.encoder.pos_conv_embed.conv.parametrizations.weight.original1": ("weight-norm", "conv", None),
    "wavlm.encoder.layers.0.attention.rel_attn_embed.weight": ("embedding", "encoder", 0),
    "wavlm.encoder.layers.5.attention.gru_rel_pos_linear.weight": ("encoder", "encoder", 5),
    "wav2vec2_conformer.encoder.layers.2.conv_module.depthwise_conv.weight": ("encoder", "encoder", 2),
    "wav2vec2_conformer.encoder.layers.2.conv_module.batch_norm.weight": ("norm", "encoder", 2),
    "wav2vec2_conformer.encoder.layers.2.conv_module.batch_norm.running_var": ("batchnorm", "encoder", 2),
    "wav2vec2_conformer.encoder.layers.2.conv_module.batch_norm.num_batches_tracked": ("buffer", "encoder", 2),
    "wav2vec2_conformer.encoder.layers.2.self_attn.pos_bias_u": ("encoder", "encoder", 2),
    "lm_head.bias": ("head", "output", None),
    # Llama
    "model.embed_tokens.weight": ("embedding", "input", None),
    "model.layers.31.mlp.gate_proj.weight": ("decoder", "decoder", 31),
    "model.layers.31.post_attention_layernorm.weight": ("norm", "decoder", 31),
    "model.layers.0.self_attn.q_norm.weight": ("norm", "decoder", 0),
    "model.norm.weight": ("norm", "decoder", None),
    # GPT-2, with and without its prefix
    "transformer.wpe.weight": ("embedding", "input", None),
    "transformer.h.1.attn.c_attn.weight": ("decoder", "decoder", 1),
    "h.1.attn.c_attn.bias": ("decoder", "decoder", 1),
    "h.1.attn.bias": ("buffer", "decoder", 1),
    "h.1.ln_2.bias": ("norm", "decoder", 1),
    "transformer.ln_f.weight": ("norm", "decoder", None),
    # T5, BERT
    "shared.weight": ("embedding", "input", None),
    "decoder.block.2.layer.1.EncDecAttention.q.weight": ("cross-attention", "decoder", 2),
    "bert.encoder.layer.4.attention.output.LayerNorm.weight": ("norm", "encoder", 4),
    "bert.embeddings.word_embeddings.weight": ("embedding", "input", None),
    "something.weight": ("other", "other", None),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_name_tells_role_part_and_layer(name: str) -> None:
    found = place(name)
    assert (found.role, found.part, found.layer) == PLACES[name]


def test_every_role_has_a_name_that_shows_it() -> None:
    assert {role for role, _, _ in PLACES.values()} == set(ROLES)


def test_roles_nest() -> None:
    assert place("model.decoder.layers.11.encoder_attn_layer_norm.weight").roles == ("norm", "cross-attention", "decoder")
    assert place("any.name", torch.int32).roles[0] == place("any.mask", torch.bool).roles[0] == "buffer"
    assert place("any.name", torch.bfloat16).roles == ("other",)


def test_no_tensor_of_a_real_model_is_left_without_a_role(model: nn.Module) -> None:
    assert not [name for name in model.state_dict() if place(name).role == "other"]


def test_layers_are_counted_for_each_stack() -> None:
    assert depths(PLACES) == {"encoder": 6, "decoder": 32, "conv": 7}


def test_weight_norm_pairs_old_and_new() -> None:
    old, new = "a.conv.weight_", "b.conv.parametrizations.weight.original"
    names = [f"{old}g", f"{old}v", f"{new}0", f"{new}1", "c.weight_g", "d.weight"]
    assert weight_norms(names) == {"a.conv.weight": (f"{old}g", f"{old}v"), "b.conv.weight": (f"{new}0", f"{new}1")}


def test_choosing() -> None:
    assert chosen(PLACES, roles=["cross-attention"]) == [name for name in PLACES if "encoder_attn" in name or "EncDec" in name]
    assert chosen(PLACES, "model", roles=["decoder"], without=["norm", "cross-attention"], layers=(0, 1)) == [
        "model.decoder.layers.0.fc1.weight"
    ]
    assert chosen(PLACES, layers=(6, 11)) == [name for name in PLACES if place(name).layer in range(6, 12)]
    assert chosen(PLACES) == list(PLACES)
    for options, message in (
        ({"roles": ["enc"]}, "no role 'enc': the roles are buffer, batchnorm"),
        ({"without": ["x"]}, "no role 'x'"),
        ({"layers": (3, 1)}, "layers 3 to 1 are no range"),
        ({"pattern": "("}, "no regular expression"),
    ):
        with pytest.raises(InputError, match=message):
            chosen(PLACES, **options)  # type: ignore[arg-type]


def test_a_delta_splits_by_role_into_parts_that_make_the_whole() -> None:
    whole = Delta("base", {name: Dense(torch.full((2,), float(number))) for number, name in enumerate(PLACES)})
    parts = [whole.restrict(roles=["norm"]), whole.restrict(without=["norm"])]
    assert not set(parts[0].tensors) & set(parts[1].tensors)
    total = parts[0] + parts[1]
    assert set(total.tensors) == set(whole.tensors) and (total - whole).norm() == 0.0
    assert whole.restrict("^model", roles=["encoder"], layers=(0, 9)).note == {
        "method": "restriction", "pattern": "^model", "roles": ["encoder"], "layers": [0, 9], "parents": [{}],
    }  # fmt: skip
    with pytest.raises(InputError, match="no parameter of the delta matches .*'roles': .'head'.*'layers': .0, 3"):
        whole.restrict(roles=["head"], layers=(0, 3))


def test_a_delta_of_files_is_that_of_the_modules(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models")
    model.save_pretrained(folder / "base")  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "tuned")  # type: ignore[operator]
    base, tuned = Checkpoint.open(folder / "base"), Checkpoint.open(folder / "tuned")
    of_files = between(base, tuned)
    assert of_files.base == fingerprint(base) and of_files.base != fingerprint(model)
    for name, change in of_files.tensors.items():
        assert torch.equal(change.dense(), model.state_dict()[name] - before[name])


def test_a_tied_module_has_the_fingerprint_of_its_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    module = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=12, n_positions=8))
    folder = tmp_path_factory.mktemp("gpt2")
    module.save_pretrained(folder)
    assert fingerprint(Checkpoint.open(folder)) == fingerprint(module)
