from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from asrlife.errors import InputError
from asrlife.models.groups import groups, select
from asrlife.models.load import load


@pytest.fixture(scope="module")
def base() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    with torch.device("meta"):
        module: nn.Module = Wav2Vec2ForCTC(Wav2Vec2Config())
    return module


def test_norms_and_features_of_wav2vec2_base_are_the_63_tensors_of_suta(base: nn.Module) -> None:
    chosen, parameters = select(base, "norms+features"), dict(base.named_parameters())
    assert len(chosen) == len(set(chosen)) == 63
    assert sum(parameters[name].numel() for name in chosen) == 4_633_856


def test_norms_and_features_are_what_the_published_walk_finds_without_its_repeats(base: nn.Module) -> None:
    found = set()
    for name, module in base.named_modules():
        front = len(name.split(".")) > 1 and name.split(".")[1] in {"feature_extractor", "feature_projection"}
        if front or isinstance(module, nn.LayerNorm):
            found |= {id(parameter) for parameter in module.parameters()}
    parameters = dict(base.named_parameters())
    assert {id(parameters[name]) for name in select(base, "norms+features")} == found


def test_groups_name_parameters_in_order_and_do_not_mix_attention_with_feed_forward(base: nn.Module) -> None:
    found, names = groups(base), [name for name, _ in base.named_parameters()]
    assert found["all"] == tuple(names)
    for members in found.values():
        assert members and list(members) == sorted(members, key=names.index)
    assert not set(found["attention"]) & set(found["mlp"])
    assert len(found["attention"]) == 12 * 8 and len(found["mlp"]) == 12 * 4
    assert all(name.endswith("bias") for name in found["biases"])


def test_whisper_features_are_the_two_convolutions_of_its_encoder(whisper_folder: Path) -> None:
    found = load(whisper_folder).groups()
    assert set(found["features"]) == {f"model.encoder.conv{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert len(found["norms"]) == 2 * (2 * 1 + 3 * 2 + 2) and len(found["mlp"]) == 4 * 3 and len(found["attention"]) == 7 * 5


def test_an_unknown_group_names_those_there_are(ctc_folder: Callable[..., Path]) -> None:
    model = load(ctc_folder())
    with pytest.raises(InputError, match="'norm' in 'features\\+norm'.*norms, features, attention, mlp, biases, all"):
        model.select("features+norm")
    assert model.select("features+norms") == model.select("norms+features")


def test_a_group_without_members_is_refused() -> None:
    with pytest.raises(InputError, match="no parameters in 'attention'"):
        select(nn.Sequential(nn.Linear(2, 2)), "attention")
