"""A model with an adapter on it is what peft's merge_and_unload makes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from asrlife.delta.adapted import Adapted
from asrlife.delta.checkpoint import Checkpoint
from asrlife.errors import InputError

peft = pytest.importorskip("peft", reason="peft, the oracle, is not installed")


def adapters(place: Path, **settings: Any) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """The folders of a small Llama and of a random adapter, and the tensors that peft makes of the two."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}
    module = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).eval()
    module.save_pretrained(place / "base")
    targets = {"target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    adapted = peft.get_peft_model(copy.deepcopy(module), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **targets, **settings}))
    adapted.save_pretrained(place / "adapter")
    return place / "base", place / "adapter", dict(adapted.merge_and_unload().state_dict())


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}, {"modules_to_save": ["lm_head"]}])
def test_it_is_what_peft_merges(settings: dict[str, Any], tmp_path: Path) -> None:
    base, adapter, expected = adapters(tmp_path, **settings)
    found = Adapted(Checkpoint.open(base), adapter)
    assert found.keys() == expected.keys() and found.moved
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name
    changed = {name for name in found if not torch.equal(found[name], found.raw(name))}
    assert changed <= set(found.moved)  # what was saved in full was not trained


def test_its_files_and_fingerprint_are_of_both(tmp_path: Path) -> None:
    base, adapter, _ = adapters(tmp_path)
    plain = Checkpoint.open(base)
    found = Adapted(plain, adapter)
    assert {path.name for path in found.files} == {"model.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    assert found.fingerprint() == Adapted(plain, adapter).fingerprint() != plain.fingerprint()


def test_no_adapter_is_no_adapter(tmp_path: Path) -> None:
    base, _, _ = adapters(tmp_path)
    with pytest.raises(InputError, match="adapter_config.json"):
        Adapted(Checkpoint.open(base), base)
