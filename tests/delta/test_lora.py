"""LoRA against peft itself: the same logits in and out, and everything that is no plain LoRA refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Delta, Dense, LowRank
from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.lora import read_lora, write_lora
from asrlife.delta.weights import applied
from asrlife.errors import InputError

peft = pytest.importorskip("peft", reason="peft, the oracle, is not installed")
TOKENS = torch.tensor([[1, 5, 7, 3]])


def llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False, **options)).eval()


def gpt2(**options: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20, n_positions=16, **options)).eval()


def randomised(module: Any) -> Any:
    """Adapters as after training: no factor or copy is what it was at the start."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name or "modules_to_save" in name or (parameter.requires_grad and name.endswith("bias")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def trained(base: nn.Module, folder: Path, **settings: Any) -> Any:
    """An adapter of peft on a copy of `base`, saved in `folder`."""
    torch.manual_seed(1)
    module = randomised(peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**settings)).eval())
    module.save_pretrained(folder)
    return module


def logits(module: Any) -> Tensor:
    with torch.no_grad():
        if "Whisper" in type(module).__name__ or "Whisper" in type(getattr(getattr(module, "base_model", None), "model", None)).__name__:
            features = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(1))
            return module(input_features=features, decoder_input_ids=TOKENS).logits  # type: ignore[no-any-return]
        return module(TOKENS).logits  # type: ignore[no-any-return]


SETTINGS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "llama": (llama, {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rslora": (llama, {"r": 4, "lora_alpha": 10, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]}),
    "patterns": (
        llama,
        {
            "r": 4,
            "target_modules": ["q_proj", "k_proj", "v_proj"],
            "rank_pattern": {"q_proj": 2, "^model.layers.1.self_attn.k_proj": 3},
            "alpha_pattern": {"layers.0.self_attn.v_proj": 7, "q_proj": 5},
        },
    ),
    "all of a module and biases": (
        lambda: llama(attention_bias=True),
        {"r": 2, "target_modules": ["q_proj"], "bias": "lora_only", "modules_to_save": ["norm", "lm_head"]},
    ),
    "lora_bias": (lambda: llama(attention_bias=True), {"r": 2, "target_modules": ["q_proj"], "lora_bias": True}),
    "gpt2, stored transposed, square ones too": (gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "an embedding": (lambda: gpt2(tie_word_embeddings=False), {"r": 4, "lora_alpha": 6, "target_modules": ["wte", "wpe"]}),
    "gaussian start": (llama, {"r": 4, "init_lora_weights": "gaussian", "target_modules": "all-linear"}),
}


@pytest.fixture(params=SETTINGS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Path]:
    """Base, peft's module and the adapter's folder."""
    make, settings = SETTINGS[request.param]
    torch.manual_seed(0)
    base = make()
    return base, trained(base, tmp_path / "adapter", **settings), tmp_path / "adapter"


def test_an_adapter_of_peft_gives_its_logits(case: tuple[Any, Any, Path], tmp_path: Path) -> None:
    base, module, folder = case
    delta = read_lora(folder, base)
    assert delta.base == fingerprint(base)
    with applied(base, delta):
        torch.testing.assert_close(logits(base), logits(module), rtol=0, atol=1e-6)
    assert not torch.allclose(logits(base), logits(module), atol=1e-4)
    base.save_pretrained(tmp_path / "base")
    of_files = read_lora(folder, Checkpoint.open(tmp_path / "base"))
    assert set(of_files.tensors) == set(delta.tensors)
    for name, change in delta.tensors.items():
        assert type(change) is type(of_files.tensors[name]) and torch.equal(change.dense(), of_files.tensors[name].dense())


def test_peft_loads_what_is_written(case: tuple[Any, Any, Path], tmp_path: Path) -> None:
    base, _, folder = case
    factors = {name: change for name, change in read_lora(folder, base).tensors.items() if isinstance(change, LowRank)}
    delta = Delta(fingerprint(base), factors)
    write_lora(delta, tmp_path / "out", base)
    module = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "out").eval()
    with applied(base, delta):
        torch.testing.assert_close(logits(module), logits(base), rtol=0, atol=1e-6)
    again = read_lora(tmp_path / "out", base)
    assert all(torch.equal(change.dense(), again.tensors[name].dense()) for name, change in factors.items())


def test_a_whisper_with_its_conv_front_end(tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24}
    config = WhisperConfig(
        vocab_size=20, num_mel_bins=8, d_model=16, decoder_ffn_dim=24, max_source_positions=10, max_target_positions=8, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    base = WhisperForConditionalGeneration(config).eval()
    module = trained(base, tmp_path / "a", r=2, lora_alpha=6, target_modules=["conv1", "conv2", "q_proj", "fc1"])
    delta = read_lora(tmp_path / "a", base)
    assert isinstance(delta.tensors["model.encoder.conv1.weight"], Dense)
    module = module.merge_and_unload()  # with the adapter beside it, Whisper's forward does not run
    with applied(base, delta):
        torch.testing.assert_close(logits(base), logits(module), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="'model.encoder.conv1.weight' has no factors"):
        write_lora(delta, tmp_path / "out", base)


def test_half_precision_factors_are_multiplied_exactly(tmp_path: Path) -> None:
    base = llama()
    trained(base, tmp_path / "a", r=2, lora_alpha=3, target_modules=["q_proj"])
    stored = {name: tensor.bfloat16() for name, tensor in load_file(tmp_path / "a" / "adapter_model.safetensors").items()}
    save_file(stored, tmp_path / "a" / "adapter_model.safetensors")
    change = read_lora(tmp_path / "a", base).tensors["model.layers.0.self_attn.q_proj.weight"]
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    wanted = stored[f"{stem}B.weight"].double() @ stored[f"{stem}A.weight"].double() * 1.5
    torch.testing.assert_close(change.dense().double(), wanted, rtol=0, atol=1e-7)


def test_a_base_whose_file_leaves_out_the_first_word(tmp_path: Path) -> None:
    base = gpt2()
    trained(base, tmp_path / "a", r=2, target_modules=["c_attn"])
    state = {name.removeprefix("transformer."): tensor for name, tensor in base.state_dict().items() if name != "lm_head.weight"}
    assert set(read_lora(tmp_path / "a", state).tensors) == {f"h.{number}.attn.c_attn.weight" for number in (0, 1)}


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    base = llama()
    trained(base, tmp_path / "a", r=2, target_modules=["q_proj"])
    yield base, tmp_path / "a"


def rewritten(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "ADALORA"}, "is a ADALORA adapter"),
        ({"use_dora": True}, "use_dora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4', which changed its base"),
        ({"init_lora_weights": "olora"}, "changed its base"),
        ({"r": 3}, "not of rank 3"),
        ({"r": "many"}, "does not say r"),
        ({"r": 0}, "rank below 1"),
        ({"rank_pattern": {"q_proj": 5}}, "not of rank 5"),
        ({"rank_pattern": {"(": 5}}, "no regular expression"),
        ({"rank_pattern": [1]}, "does not say r"),
    ],
)
def test_settings_that_are_no_plain_lora(plain: tuple[Any, Path], settings: dict[str, Any], message: str) -> None:
    base, folder = plain
    rewritten(folder, **settings)
    with pytest.raises(InputError, match=message):
        read_lora(folder, base)


def test_a_dora_that_peft_trained_is_refused_by_its_name(tmp_path: Path) -> None:
    base = llama()
    trained(base, tmp_path / "a", r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(InputError, match="has use_dora, which no sum"):
        read_lora(tmp_path / "a", base)
    rewritten(tmp_path / "a", use_dora=False)
    with pytest.raises(InputError, match="lora_magnitude_vector', which is no part of a plain LoRA"):
        read_lora(tmp_path / "a", base)


def test_tied_tensors_are_refused(tmp_path: Path) -> None:
    base = gpt2()
    for number, targets in enumerate((["wte"], ["lm_head"])):
        trained(base, tmp_path / str(number), r=2, target_modules=targets)
        for state in (base, saved(base, tmp_path / "base")):
            with pytest.raises(InputError, match="tied to"):
                read_lora(tmp_path / str(number), state)
    wte = Delta(fingerprint(base), {"transformer.wte.weight": LowRank(torch.ones(20, 1), torch.ones(1, 16))})
    with pytest.raises(InputError, match="tied to"):
        write_lora(wte, tmp_path / "out", base)


def saved(base: Any, folder: Path) -> Checkpoint:
    base.save_pretrained(folder)
    return Checkpoint.open(folder)


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


STEM = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(STEM + "lora_B.weight"), "lacks '.*lora_B.weight'"),
        (lambda tensors: tensors.pop(STEM + "lora_A.weight"), "lacks '.*lora_A.weight'"),
        (lambda tensors: tensors.update({STEM + "lora_A.weight": torch.ones(2, 7)}), r"shape \[16, 16\] in the base, .* is \[16, 7\]"),
        (lambda tensors: tensors.update({"base_model.model.model.nrom.weight": torch.ones(16)}), "no 'model.nrom.weight': did you mean"),
        (lambda tensors: tensors.update({"base_model.model.model.norm.weight": torch.ones(3)}), r"norm.weight' has shape \[16\]"),
        (lambda tensors: tensors.update({STEM + "weight": torch.ones(16, 16)}), "moves 'model.layers.0.self_attn.q_proj.weight' twice"),
        (lambda tensors: tensors.clear(), "holds nothing"),
    ],
)
def test_files_that_do_not_fit(plain: tuple[Any, Path], change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    base, folder = plain
    changed(folder, change)
    with pytest.raises(InputError, match=message):
        read_lora(folder, base)


def test_folders_that_are_none(plain: tuple[Any, Path], tmp_path: Path) -> None:
    base, folder = plain
    with pytest.raises(InputError, match=r"has no adapter_config.json"):
        read_lora(tmp_path, base)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="a pickle, which can run code"):
        read_lora(folder, base)
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(InputError, match="does not read"):
        read_lora(folder, base)


def test_what_cannot_be_written(plain: tuple[Any, Path], tmp_path: Path) -> None:
    base, folder = plain
    delta = read_lora(folder, base)
    with pytest.raises(InputError, match="is there already"):
        write_lora(delta, folder, base)
    torch.manual_seed(7)
    with pytest.raises(InputError, match="was made for base"):
        write_lora(delta, tmp_path / "out", llama())
    dense = Delta(delta.base, {"model.norm.weight": Dense(torch.ones(16))})
    with pytest.raises(InputError, match="'model.norm.weight' has no factors"):
        write_lora(delta + dense, tmp_path / "out", base)
    with pytest.raises(InputError, match="moves nothing"):
        write_lora(Delta(delta.base, {}), tmp_path / "out", base)
    assert not (tmp_path / "out").exists()
