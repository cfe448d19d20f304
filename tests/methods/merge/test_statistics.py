"""Fisher diagonals and Gram matrices: by hand, on all kinds of models, and as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.fingerprint import fingerprint
from asrlife.delta.roles import weight_norms
from asrlife.errors import InputError
from asrlife.methods.merge.exhibits import of_texts, of_utterances, read
from asrlife.methods.merge.leaves import Leaves
from asrlife.methods.merge.names import counterpart, counterparts
from asrlife.methods.merge.places import handle
from asrlife.methods.merge.statistics import Statistics, linear_layers, measure
from asrlife.methods.merge.subject import Listener, subject
from asrlife.models.text import TextModel
from tests.methods.merge.shown import TEXTS, Toy, shown, utterances

Folders = dict[str, Path]


@pytest.fixture(scope="session")
def folders(ctc_folder: Callable[..., Path], whisper_folder: Path, lm_folder: Path) -> Folders:
    found = {kind: ctc_folder(kind, "layer") for kind in ("wav2vec2", "wavlm", "wav2vec2-conformer")}
    return found | {"group": ctc_folder("hubert", "group"), "whisper": whisper_folder, "lm": lm_folder}


KINDS = ["wav2vec2", "group", "wavlm", "wav2vec2-conformer", "whisper", "lm"]


def toy() -> Toy:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0]))
    return Toy(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 5.0], [1.0, 0.0]]), layer)


def test_a_fisher_diagonal_by_hand() -> None:
    # y - t: (1, 2, ) + b -> (1-0, 4+1-5) = (1, 0) and (3-1, 0+1-0) = (2, 1); g = (y - t) x'
    found = measure(toy(), "fisher").tensors
    first, second = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[6.0, 0.0], [3.0, 0.0]])
    assert torch.equal(found["0.weight"], (first.square() + second.square()) / 2)
    assert torch.equal(found["0.bias"], torch.tensor([(1 + 4) / 2, 1 / 2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gram_matrix_by_hand(dtype: torch.dtype) -> None:
    found = measure(toy(), "gram", dtype=dtype)
    assert found.tensors.keys() == {"0.weight"} and found.card["steps"] == {"0.weight": 2}
    assert torch.equal(found.tensors["0.weight"], torch.tensor([[10.0, 2.0], [2.0, 4.0]], dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["fisher", "gram"])
def test_every_kind_of_model_is_measured_and_stays_as_it_is(folders: Folders, kind: str, what: str) -> None:
    listener, checkpoint = shown(folders[kind], 2), Checkpoint.open(folders[kind])
    before = fingerprint(listener.module)
    found = measure(listener, what, checkpoint=checkpoint)  # type: ignore[arg-type]
    assert fingerprint(listener.module) == before and before in found.fingerprints
    assert all(parameter.grad is None for parameter in listener.module.parameters())
    assert set(found.tensors) - set(checkpoint) <= set(weight_norms(set(checkpoint))), "names are the files' own, but for pairs"
    for name, tensor in found.tensors.items():
        assert bool(tensor.isfinite().all()) and tensor.dtype == torch.float32
        if what == "gram":
            width = checkpoint[name].shape[1]
            assert tensor.shape == (width, width) and torch.equal(tensor, tensor.T) and float(tensor.diagonal().min()) >= 0
        elif name in checkpoint:
            assert tensor.shape == checkpoint[name].shape and float(tensor.min()) >= 0
    if what == "fisher":
        assert sum(bool(tensor.any()) for tensor in found.tensors.values()) > 0.8 * len(found.tensors)
        assert "empirical on given texts" in found.card["labels"]


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-conformer", "whisper", "lm"])
def test_a_fisher_is_the_mean_of_squared_gradients_of_the_network_itself(folders: Folders, kind: str) -> None:
    listener = shown(folders[kind], 2)
    found = measure(listener, "fisher").tensors
    own = dict(listener.module.named_parameters())
    for parameter in own.values():
        parameter.requires_grad_(True)
    slopes = [torch.autograd.grad(listener.regret(index), list(own.values()), allow_unused=True) for index in range(2)]
    for place, name in enumerate(own):
        if name in found:
            parts = [torch.zeros_like(own[name]) if slope[place] is None else slope[place] for slope in slopes]
            wanted = (parts[0].square() + parts[1].square()) / 2
            torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-5 * float(wanted.max()) + 1e-12)


def test_the_fisher_of_a_pair_is_that_of_its_weight(folders: Folders) -> None:
    listener = shown(folders["wav2vec2"], 1)
    name = "wav2vec2.encoder.pos_conv_embed.conv.weight"
    leaves = Leaves.of(listener.module)
    slope = leaves.gradients(listener.regret(0, leaves.weights()))[name]
    step = torch.zeros_like(slope)
    step.view(-1)[slope.abs().argmax()] = 1e-2
    ends = []
    for sign in (1, -1):
        moved = Leaves.of(listener.module, {name: leaves.tensors[name].detach() + sign * step})
        with torch.no_grad():
            ends.append(float(listener.regret(0, moved.weights())))
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(float(slope.abs().max() * slope[step > 0].sign()), rel=0.05)


def test_padding_behind_the_sound_counts_nowhere_in_whisper(folders: Folders) -> None:
    listener = shown(folders["whisper"], 1)
    assert isinstance(listener, Listener)
    seen: dict[str, Tensor] = {}
    names = ["model.encoder.layers.0.fc1", "model.decoder.layers.0.encoder_attn.k_proj", "model.decoder.layers.0.fc1"]
    handles = [
        listener.module.get_submodule(n).register_forward_hook(lambda _, i, o, n=n: seen.update({n: i[0][0]}))  # type: ignore[misc]
        for n in names
    ]
    found = measure(listener, "gram")
    for handle_ in handles:
        handle_.remove()
    frames = 20  # 0.4 s of 0.02 s, of a window of 100
    for name, kept in zip(names, (frames, frames, None), strict=True):
        rows = seen[name][:kept]
        torch.testing.assert_close(found.tensors[f"{name}.weight"], rows.T @ rows, rtol=1e-4, atol=1e-5)
    assert found.card["steps"]["model.encoder.layers.0.fc1.weight"] == frames < len(seen[names[0]])


def test_padding_of_a_batch_counts_nowhere_in_ctc(folders: Folders) -> None:
    both = subject(handle(str(folders["wav2vec2"])), of_utterances(utterances(2)))
    alone = [subject(handle(str(folders["wav2vec2"])), of_utterances([found])) for found in utterances(2)]
    name = "wav2vec2.encoder.layers.1.attention.q_proj.weight"
    parts = [measure(one, "gram").tensors[name] for one in alone]
    torch.testing.assert_close(measure(both, "gram").tensors[name], parts[0] + parts[1], rtol=1e-5, atol=1e-5)


def test_without_texts_labels_are_the_models_own(folders: Folders) -> None:
    model = handle(str(folders["wav2vec2"]))
    own = measure(subject(model, of_utterances(utterances(1))), "fisher")
    assert own.card["labels"] == "empirical on the model's own greedy labels"
    heard = model.transcribe([utterances(1)[0].waveform()])[0].text  # type: ignore[union-attr]
    told = measure(subject(model, of_utterances(utterances(1, [heard]))), "fisher")
    assert all(torch.equal(own.tensors[name], told.tensors[name]) for name in own.tensors)


def test_what_is_never_called_is_named(folders: Folders) -> None:
    found = measure(shown(folders["wavlm"], 1), "gram")
    assert "wavlm.encoder.layers.0.attention.q_proj.weight" in found.card["never_called"]  # it goes by the weights alone
    assert "wavlm.encoder.layers.0.attention.out_proj.weight" not in found.tensors
    assert "proj_out" not in linear_layers(shown(folders["whisper"], 1).module), "tied to the embedding"


def test_a_gpt_whose_weights_lie_the_other_way_round(folders: Folders) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    reader = handle(str(folders["lm"]))
    assert isinstance(reader, TextModel)
    torch.manual_seed(0)
    size = {"n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    module = GPT2LMHeadModel(GPT2Config(vocab_size=len(reader.speller), **size)).eval()
    gpt = subject(TextModel("gpt", module, reader.speller), of_texts(TEXTS))
    grams, diagonals = measure(gpt, "gram").tensors, measure(gpt, "fisher").tensors
    name = "transformer.h.0.mlp.c_proj.weight"
    assert grams[name].shape == (48, 48) and diagonals[name].shape == (48, 12) and "lm_head.weight" not in grams
    assert diagonals.keys() == {name for name, _ in module.named_parameters()}, "the tied head once, as the embedding"
    assert counterpart("h.0.mlp.c_proj.weight", grams) == name


def test_names_of_files_and_networks_meet() -> None:
    known = {"a.conv.parametrizations.weight.original0": 1, "model.x.weight": 2, "other.x.weight": 3, "body.y.weight": 4}
    assert counterpart("a.conv.weight_g", known) == "a.conv.parametrizations.weight.original0"
    assert counterpart("y.weight", known) == "body.y.weight" and counterpart("z.body.y.weight", known) == "body.y.weight"
    assert counterpart("x.weight", known) is None, "two would fit"
    assert counterpart("conv.weight_v", known) is None
    assert counterparts(["y.weight", "none"], known) == {"y.weight": "body.y.weight"}


def test_files_come_back_as_they_were(folders: Folders, tmp_path: Path) -> None:
    found = measure(shown(folders["lm"], 2), "gram", checkpoint=Checkpoint.open(folders["lm"]))
    path = found.write(tmp_path / "g.safetensors")
    again = Statistics.read(path)
    assert again.kind == "gram" and again.card == json.loads(json.dumps(found.card))
    assert again.tensors.keys() == found.tensors.keys()
    assert all(torch.equal(again.tensors[name], found.tensors[name]) for name in found.tensors)
    assert fingerprint(Checkpoint.open(folders["lm"])) in again.fingerprints
    with pytest.raises(InputError, match="is there already"):
        found.write(path)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        found.write(tmp_path / "g.bin")


def test_other_files_and_cards_are_refused(folders: Folders, tmp_path: Path) -> None:
    path = measure(shown(folders["lm"], 1), "gram").write(tmp_path / "g.safetensors")
    card = path.with_suffix(".json")
    text = card.read_text()
    card.write_text(text.replace('"examples": 1', '"examples": 2'))
    with pytest.raises(InputError, match="is not the card that"):
        Statistics.read(path)
    card.write_text("{")
    with pytest.raises(InputError, match="does not read"):
        Statistics.read(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no evidence: make it with `asrlife evidence"):
        Statistics.read(tmp_path / "other.safetensors")


def test_what_a_model_cannot_take_is_said(folders: Folders, tmp_path: Path) -> None:
    model, reader = handle(str(folders["wav2vec2"])), handle(str(folders["lm"]))
    with pytest.raises(InputError, match="hears audio"):
        subject(model, of_texts(TEXTS))
    with pytest.raises(InputError, match="reads texts"):
        subject(reader, of_utterances(utterances(1)))
    with pytest.raises(InputError, match="not every utterance has a text"):
        subject(model, of_utterances(utterances(1)), "texts")
    with pytest.raises(InputError, match="nothing to show"):
        subject(model, of_utterances([]))
    with pytest.raises(InputError, match="another kind"):
        shown(folders["wav2vec2"]).beside(handle(str(folders["whisper"])))
    with pytest.raises(InputError, match="no evidence of the kind 'hessian'"):
        measure(toy(), "hessian")  # type: ignore[arg-type]
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert read([tmp_path / "a.txt"], limit=1).texts == ("one",) and read([tmp_path / "a.txt"]).texts == ("one", "two")
    with pytest.raises(InputError, match="lines have no split"):
        read([tmp_path / "a.txt"], split="dev")
    with pytest.raises(InputError, match="data of one kind"):
        read([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    (tmp_path / "c.jsonl").write_text('{"id": "a", "audio": "none.wav"}\n')
    with pytest.raises(InputError, match="no audio file"):
        read([tmp_path / "c.jsonl"])


def test_numbers_that_overflow_are_refused() -> None:
    broken = toy()
    broken.inputs = broken.inputs * 1e30
    with pytest.raises(InputError, match="comes out NaN or infinite"):
        measure(broken, "gram")
