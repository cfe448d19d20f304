"""Checkpoints by their actual names: what reads, how it reads, and what every damaged or foreign file is told."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint, check_alike
from asrlife.delta.shards import DTYPES, Spec, layout, split
from asrlife.errors import InputError


@pytest.fixture
def folder(model: nn.Module, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    return tmp_path / "model"


def sample(dtype: torch.dtype) -> Tensor:
    return torch.arange(1, 7).reshape(2, 3).to(dtype)


def test_reads_what_safetensors_reads(folder: Path) -> None:
    found, wanted = Checkpoint.open(folder), load_file(folder / "model.safetensors")
    assert list(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        assert found.entries[name].shape == tuple(tensor.shape)
    assert found.metadata == {"format": "pt"}


@pytest.mark.parametrize("code", sorted(set(DTYPES) - {"C64"}))
def test_every_dtype_is_a_view_of_the_file(code: str, tmp_path: Path) -> None:
    dtype = DTYPES[code]
    save_file({"a": sample(dtype), "scalar": sample(dtype)[0, 0], "empty": sample(dtype)[:0]}, tmp_path / "x.safetensors")
    found = Checkpoint.open(tmp_path / "x.safetensors")
    assert torch.equal(found["a"].view(torch.uint8), sample(dtype).view(torch.uint8))
    assert found["a"].data_ptr() == found["a"].data_ptr() and found["a"].dtype == dtype
    assert found["scalar"].shape == () and found["empty"].shape == (0, 3)


def test_a_write_into_a_view_never_reaches_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(8)}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    Checkpoint.open(tmp_path / "x.safetensors")["a"].fill_(1.0)
    assert (tmp_path / "x.safetensors").read_bytes() == before
    assert torch.equal(Checkpoint.open(tmp_path / "x.safetensors")["a"], torch.zeros(8))


def test_a_misaligned_tensor_reads_too(tmp_path: Path) -> None:
    table = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8 + 1)
    values = torch.tensor([1.5, -2.0])
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + values.numpy().tobytes())
    assert torch.equal(Checkpoint.open(tmp_path / "x.safetensors")["a"], values)


def test_our_layout_is_byte_for_byte_that_of_safetensors(tmp_path: Path) -> None:
    tensors = {f"{code}.{name}": sample(dtype) for code, dtype in DTYPES.items() for name in ("b", "a", "ü")}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    head, places = layout(tmp_path / "x.safetensors", specs, {"format": "pt"})
    found = Checkpoint.open(tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes()[: len(head)] == head
    assert places == dict(found.stored)


def test_shards_split_in_order_and_are_named_as_the_hub_names_them() -> None:
    specs = {name: Spec(torch.float32, (4,)) for name in "abcde"}
    assert split(specs, 40) == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c", "d"],
        "model-00003-of-00003.safetensors": ["e"],
    }
    assert split(specs, 80) == {"model.safetensors": list("abcde")}
    assert len(split(specs, 1)) == 5


def test_a_sharded_folder_is_the_same_checkpoint(model: nn.Module, folder: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "sharded", max_shard_size="4kB")  # type: ignore[operator]
    whole, parts = Checkpoint.open(folder), Checkpoint.open(tmp_path / "sharded")
    assert len({entry.path for entry in parts.entries.values()}) > 1
    assert list(parts) == list(whole) and all(torch.equal(parts[name], whole[name]) for name in whole)
    assert list(Checkpoint.open(tmp_path / "sharded" / "model.safetensors.index.json")) == list(whole)
    check_alike(whole, parts)


def test_a_tied_tensor_that_is_stored_twice_is_listed_once(tmp_path: Path) -> None:
    embedding = torch.randn(6, 4)
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone(), "model.norm.weight": torch.ones(4)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = Checkpoint.open(tmp_path)
    assert dict(found.tied) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert list(found) == ["model.embed_tokens.weight", "model.norm.weight"] and "lm_head.weight" in found.stored
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    assert not Checkpoint.open(tmp_path).tied
    save_file(tensors | {"lm_head.weight": embedding + 1}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    assert not Checkpoint.open(tmp_path).tied


def test_what_goes_with_the_weights(tmp_path: Path) -> None:
    kept = ["config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.json"]
    kept += ["tokenizer_config.json", "special_tokens_map.json", "merges.txt", "normalizer.json", "chat_template.jinja", "spiece.model"]
    for name in [*kept, "trainer_state.json", "README.md", "optimizer.pt", "model.safetensors.index.json", "rng.pth"]:
        (tmp_path / name).write_text("{}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("x")
    (tmp_path / "model.safetensors.index.json").unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert sorted(path.name for path in Checkpoint.open(tmp_path).carried()) == sorted([*kept, "rag.jinja"])
    assert Checkpoint.open(tmp_path / "model.safetensors").carried() == ()


def good(path: Path) -> bytes:
    save_file({"a": torch.ones(4), "b": torch.ones(2, dtype=torch.bfloat16)}, path)
    return path.read_bytes()


def table(entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "cut short"),
    "a few bytes": (lambda whole: whole[:5], "cut short"),
    "half the header": (lambda whole: whole[:40], "cut short"),
    "half a tensor": (lambda whole: whole[:-3], "cut short: .* bytes of"),
    "bytes after it": (lambda whole: whole + b"x", "1 bytes after its last tensor"),
    "a page of the web": (lambda whole: b"<!DOCTYPE html><html>" + whole, "no safetensors"),
    "a pointer": (lambda whole: b"version https://git-lfs\noid sha256:0", "git-lfs"),
    "a zipped pickle": (lambda whole: b"PK\x03\x04" + whole, "pickle, which can run code"),
    "a pickle": (lambda whole: pickle.dumps({"a": 1}), "pickle, which can run code"),
    "no JSON": (lambda whole: (4).to_bytes(8, "little") + b"{{{{", "does not read"),
    "a list": (lambda whole: table([1]), "does not read"),
    "no shape": (lambda whole: table({"a": {"dtype": "F32"}}), "does not say what 'a' is"),
    "a negative shape": (lambda whole: table({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}), "does not say what 'a' is"),
    "a shape that is none": (lambda whole: table({"a": {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}}), "does not say"),
    "an unknown dtype": (lambda whole: table({"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}), "dtype F4"),
    "sizes that disagree": (
        lambda whole: table({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}) + b"x" * 8,
        "needs 12 bytes",
    ),
    "a gap": (lambda whole: table({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}) + b"xx", "overlap or leave gaps"),
    "an overlap": (
        lambda whole: table({name: {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]} for name in "ab"}) + b"xx",
        "overlap or leave gaps",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_told_from_a_whole_one(damage: str, tmp_path: Path) -> None:
    path, (break_, message) = tmp_path / "x.safetensors", DAMAGED[damage]
    path.write_bytes(break_(good(path)))
    with pytest.raises(InputError, match=message) as caught:
        Checkpoint.open(path)
    assert "x.safetensors" in str(caught.value)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    one = '"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    text = f"{{{one}, {one}}}".encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"x")
    with pytest.raises(InputError, match="stands twice"):
        Checkpoint.open(tmp_path / "x.safetensors")


@given(noise=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), length=st.integers(0, 300))
def test_any_bytes_read_or_are_refused(noise: list[tuple[int, int]], length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    data = bytearray(good(path))
    for place, value in noise:
        data[place % len(data)] = value
    path.write_bytes(data[: len(data) - length] if length < 150 else data)
    try:
        found = Checkpoint.open(path)
    except InputError:
        return
    assert all(found[name].numel() >= 0 for name in found)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards with their index."""
    for number, names in ((1, "ab"), (2, "cd")):
        save_file({name: torch.ones(4) for name in names}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    places = {name: f"model-0000{1 + (name in 'cd')}-of-00002.safetensors" for name in "abcd"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return tmp_path


def rewritten(sharded: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = sharded / "model.safetensors.index.json"
    table = json.loads(path.read_text())
    change(table["weight_map"])
    path.write_text(json.dumps(table))


def test_an_index_that_points_nowhere(sharded: Path) -> None:
    assert list(Checkpoint.open(sharded)) == list("abcd")
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="'model-00002-of-00002.safetensors', which is not there"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/model.safetensors", "model.bin"])
def test_an_index_that_leaves_its_folder(sharded: Path, file: str) -> None:
    rewritten(sharded, lambda places: places.update(a=file))
    with pytest.raises(InputError, match="no .safetensors file of its own folder"):
        Checkpoint.open(sharded)


def test_an_index_of_another_checkpoint(sharded: Path) -> None:
    rewritten(sharded, lambda places: places.pop("a"))
    with pytest.raises(InputError, match="holds 'a', which .* does not name there"):
        Checkpoint.open(sharded)
    rewritten(sharded, lambda places: places.update(a="model-00002-of-00002.safetensors"))
    with pytest.raises(InputError, match="'a' is in 'model-00002-of-00002.safetensors', where it is not"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}'])
def test_an_index_that_says_nothing(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match="copy or download it again"):
        Checkpoint.open(sharded)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no .*nowhere"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no \*.safetensors"):
        Checkpoint.open(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin, which is no safetensors .*convert it once"):
        Checkpoint.open(tmp_path)
    with pytest.raises(InputError, match="pickle, which can run code"):
        Checkpoint.open(tmp_path / "pytorch_model.bin")
    for name in ("one", "two"):
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="holds 2 .safetensors and none is model.safetensors"):
        Checkpoint.open(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="peft adapter"):
        Checkpoint.open(tmp_path)


def test_checkpoints_of_different_models_are_told_apart_by_names(tmp_path: Path) -> None:
    save_file({name: torch.ones(4) for name in "abcdefgh"}, tmp_path / "base.safetensors")
    save_file({"a": torch.ones(5), "b": torch.ones(4).half(), "z": torch.ones(4)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError) as caught:
        check_alike(Checkpoint.open(tmp_path / "base.safetensors"), Checkpoint.open(tmp_path / "other.safetensors"))
    text = str(caught.value).replace(f"{tmp_path}/", "")
    assert text == (
        "other.safetensors lacks 6 tensors such as 'c', 'd', 'e' of base.safetensors. base.safetensors lacks the tensor 'z' of "
        "other.safetensors. shapes differ: 'a' [4] in base.safetensors and [5] in other.safetensors: give checkpoints of one architecture "
        "and size, or leave these tensors out"
    )
