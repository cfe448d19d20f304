from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCTC

from asrlife.audio.waveform import Waveform
from asrlife.models.frames import Frames
from asrlife.models.groups import select
from asrlife.models.load import load
from asrlife.models.wav2vec2 import Network
from asrlife.models.wav2vec2_blocks import attend, feed
from asrlife.models.wav2vec2_convolutions import convolved, placed, placed_by_row, there_and_back
from tests.conftest import ctc_config

Folder = Callable[..., Path]
Tensors = dict[str, Tensor]

FAMILY = [("wav2vec2", "layer"), ("wav2vec2", "group"), ("hubert", "layer"), ("hubert", "group")]
NETWORKS = [(kind, norm, stable) for kind, norm in FAMILY for stable in (True, False)]
SCOPES = ["norms", "norms+features", "all"]
SHORT, LONG = (1600, 3100, 2330), (5120, 16000, 11201)  # samples; a batch of the first is short enough for the written-out blocks


def made(kind: str, norm: str, stable: bool, **more: Any) -> Any:
    """A small network of random weights, its norms too."""
    torch.manual_seed(5)
    config = ctc_config(kind, norm, **more)
    config.do_stable_layer_norm = stable
    module: Any = AutoModelForCTC.from_config(config).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return module


def spread(module: nn.Module, names: Sequence[str], rows: int) -> Tensors:
    """Weights of `names`, other ones in each row."""
    own = {name: module.get_parameter(name) for name in names}
    return {name: (tensor + 0.02 * torch.randn(rows, *tensor.shape)).requires_grad_() for name, tensor in own.items()}


def prepared(module: nn.Module, names: Sequence[str]) -> Tensors:
    network = Network.of(module, {})
    assert network is not None
    return network.prepared(names)


def padded(sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor(sizes)
    return torch.randn(len(sizes), max(sizes)) * (torch.arange(max(sizes)) < lengths[:, None]), lengths


def scores(module: Any, weights: Tensors, audio: Tensor, lengths: Tensor, known: Tensors | None = None) -> list[Tensor]:
    """Logits of each row as far as they are valid."""
    network = Network.of(module, weights, known)
    assert network is not None
    counts = Frames.unpadded(module.config.conv_kernel, module.config.conv_stride).count(lengths)
    logits = network.scores(network.encode(network.front(audio, lengths), counts))
    return [row[:count] for row, count in zip(logits, counts.tolist(), strict=True)]


def scores_of_transformers(module: Any, weights: Tensors, audio: Tensor, lengths: Tensor) -> list[Tensor]:
    """Each row alone, without padding; masked where the front-end takes a mask."""
    found = []
    for row, size in enumerate(lengths.tolist()):
        mask = torch.ones(1, size, dtype=torch.long) if module.config.feat_extract_norm == "layer" else None
        own = {name: tensor[row] for name, tensor in weights.items()}
        found.append(torch.func.functional_call(module, own, (audio[row : row + 1, :size],), {"attention_mask": mask}).logits[0])
    return found


def slopes(logits: Sequence[Tensor], weights: Tensors) -> list[Tensor | None]:
    """Gradients of a loss in which all classes count, and each frame differently."""
    losses = [(row.log_softmax(-1) * torch.linspace(0, 1, row.numel()).view_as(row)).sum() for row in logits]
    return list(torch.autograd.grad(torch.stack(losses).sum(), list(weights.values()), allow_unused=True))


def assert_alike(found: Sequence[Tensor], expected: Sequence[Tensor], weights: Tensors) -> None:
    for row, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(row, wanted, rtol=0, atol=1e-5)
    pairs = dict(zip(weights, zip(slopes(found, weights), slopes(expected, weights), strict=True), strict=True))
    whole = torch.cat([theirs.flatten(1) for _, theirs in pairs.values() if theirs is not None], 1).norm(dim=1)
    for name, (slope, theirs) in pairs.items():
        assert (slope is None) == (theirs is None), name
        if slope is not None and theirs is not None:  # the bias of keys moves nothing: its gradient is noise
            away, size = (tensor.flatten(1).norm(dim=1) for tensor in (slope - theirs, theirs))
            assert bool((away <= 1e-4 * size + 1e-6 * whole).all()), name


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_one_utterance_has_the_scores_and_gradients_of_transformers(network: tuple[str, str, bool], scope: str, ready: bool) -> None:
    module = made(*network)
    names = select(module, scope)
    known = prepared(module, names) if ready else None
    weights = spread(module, names, 1)
    for samples in (SHORT[1], LONG[1], 1):
        audio, lengths = padded([max(samples, Frames.unpadded(module.config.conv_kernel, module.config.conv_stride).least)])
        assert_alike(scores(module, weights, audio, lengths, known), scores_of_transformers(module, weights, audio, lengths), weights)


@pytest.mark.parametrize("sizes", [SHORT, LONG])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_padded_batch_with_weights_of_its_own_in_each_row_is_one_by_one(
    network: tuple[str, str, bool], scope: str, sizes: Sequence[int]
) -> None:
    module = made(*network)
    names = select(module, scope)
    weights, (audio, lengths) = spread(module, names, len(sizes)), padded(sizes)
    known = prepared(module, names)
    assert_alike(scores(module, weights, audio, lengths, known), scores_of_transformers(module, weights, audio, lengths), weights)


@pytest.mark.parametrize("sizes", [SHORT, LONG])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_no_bit_leaks_from_one_row_to_another(kind: str, norm: str, scope: str, sizes: Sequence[int]) -> None:
    module = made(kind, norm, norm == "layer")
    names = select(module, scope)
    weights, (audio, lengths) = spread(module, names, len(sizes)), padded(sizes)
    known = prepared(module, names)
    clean = scores(module, weights, audio, lengths, known)
    before = slopes(clean, weights)
    with torch.no_grad():
        for tensor in weights.values():
            tensor[1] += 0.05 * torch.randn(tensor.shape[1:])
        audio[1] *= -3
        audio[0, sizes[0] :] = 100.0
    other = scores(module, weights, audio, lengths, known)
    after = slopes(other, weights)
    assert not torch.equal(clean[1], other[1])
    for row in (0, 2):
        assert torch.equal(clean[row], other[row])
        for name, old, new in zip(weights, before, after, strict=True):
            assert old is new is None or (old is not None and new is not None and torch.equal(old[row], new[row])), name


@pytest.mark.parametrize("sizes", [SHORT, LONG])
def test_weights_for_all_rows_are_weights_of_each(sizes: Sequence[int]) -> None:
    module = made("wav2vec2", "layer", True)
    one, (audio, lengths) = spread(module, select(module, "all"), 1), padded(sizes)
    each = {name: tensor.detach().expand(len(sizes), *tensor.shape[1:]).clone().requires_grad_() for name, tensor in one.items()}
    pair = scores(module, one, audio, lengths), scores(module, each, audio, lengths)
    for shared, own in zip(*pair, strict=True):
        torch.testing.assert_close(shared, own, rtol=0, atol=1e-5)
    for name, whole, parts in zip(one, slopes(pair[0], one), slopes(pair[1], each), strict=True):
        if whole is not None and parts is not None:
            torch.testing.assert_close(whole[0], parts.sum(0), rtol=1e-3, atol=1e-3 * float(parts.abs().max()) + 1e-4, msg=name)


@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_parameters_of_the_network_itself_can_be_trained(kind: str, norm: str) -> None:
    module = made(kind, norm, norm == "layer").requires_grad_(True)
    audio, lengths = padded(SHORT[:1])
    names = [name for name in select(module, "all") if not name.endswith("masked_spec_embed")]
    own = {name: module.get_parameter(name) for name in names}
    expected = slopes([module(audio).logits[0]], own)
    for name, found, theirs in zip(names, slopes(scores(module, {}, audio, lengths), own), expected, strict=True):
        assert found is not None
        assert theirs is not None
        torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()) + 1e-4, msg=name)


@pytest.mark.parametrize(
    ("scope", "samples", "gradients", "blocks"),
    [
        ("norms", SHORT[0], True, {"attend", "feed"}),
        ("norms", SHORT[0], False, {"attend", "feed"}),
        ("norms", 2 * LONG[1], True, set()),
        ("norms+attention", SHORT[0], True, {"feed"}),
        ("norms+mlp", SHORT[0], True, {"attend"}),
        ("biases", SHORT[0], True, set()),
    ],
)
def test_written_out_blocks_are_for_short_audio_and_what_is_not_tuned(
    scope: str, samples: int, gradients: bool, blocks: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = set()

    def noted(name: str, block: Any) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            called.add(name)
            return block(*inputs)

        return run

    for name, block in {"attend": attend, "feed": feed}.items():
        monkeypatch.setattr(f"asrlife.models.wav2vec2.{name}", noted(name, block))
    module = made("wav2vec2", "layer", True)
    names = select(module, scope)
    weights, (audio, lengths) = spread(module, names, 1), padded([samples])
    with torch.set_grad_enabled(gradients):
        scores(module, weights, audio, lengths, prepared(module, names))
    assert called == blocks


@pytest.mark.parametrize("stable", [True, False])
def test_the_states_behind_a_layer_are_those_of_transformers(stable: bool) -> None:
    module = made("wav2vec2", "layer", stable)
    names = select(module, "norms+features")
    weights, (audio, lengths) = spread(module, names, 1), padded(SHORT[:1])
    network = Network.of(module, weights, prepared(module, names))
    assert network is not None
    own = {name: tensor[0] for name, tensor in weights.items()}
    theirs = torch.func.functional_call(module, own, (audio,), {"output_hidden_states": True}).hidden_states
    counts = Frames.unpadded(module.config.conv_kernel, module.config.conv_stride).count(lengths)
    for layer in range(2):
        found = network.encode(network.front(audio, lengths), counts, layers=layer)
        torch.testing.assert_close(found, theirs[layer], rtol=0, atol=1e-5)
        for slope, wanted in zip(
            *(
                torch.autograd.grad(out.sum(), weights["wav2vec2.feature_projection.layer_norm.bias"], retain_graph=True)
                for out in (found, theirs[layer])
            ),
            strict=True,
        ):
            torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [SHORT, LONG])
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_autocast_is_followed(norm: str, sizes: Sequence[int]) -> None:
    module = made("wav2vec2", norm, norm == "layer")
    names = select(module, "norms+features")
    weights, (audio, lengths) = spread(module, names, len(sizes)), padded(sizes)
    known = prepared(module, names)
    exact = scores(module, weights, audio, lengths, known)
    with torch.autocast("cpu", torch.bfloat16):
        rough = scores(module, weights, audio, lengths, known)
    assert rough[0].dtype == torch.bfloat16
    pairs = zip(slopes([row.float() for row in rough], weights), slopes(exact, weights), strict=True)
    ours, theirs = (torch.cat([part.flatten() for part in parts if part is not None]) for parts in zip(*pairs, strict=True))
    assert float(F.cosine_similarity(ours, theirs, 0)) > 0.99
    for found, wanted in zip(rough, exact, strict=True):
        torch.testing.assert_close(found.float(), wanted, rtol=0, atol=0.1 * float(wanted.detach().abs().max()))


def test_what_is_tuned_cannot_be_known() -> None:
    module = made("wav2vec2", "layer", True)
    weights = spread(module, select(module, "norms"), 1)
    with pytest.raises(ValueError, match=r"layer_norm.* is both tuned and known: prepare with the names of what is tuned"):
        Network.of(module, weights, prepared(module, ()))


@pytest.mark.parametrize("own_layout", [True, False])
@pytest.mark.parametrize("time", [1, 9, 300])  # the layout is chosen for one length and has to serve all
@pytest.mark.parametrize("taps", [1, 5, 6])
def test_a_placement_is_a_convolution_of_equal_length(taps: int, time: int, own_layout: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: own_layout)
    kernels, frames = torch.randn(2, 12, 3, taps), torch.randn(2, time, 12, requires_grad=True)
    expected = torch.stack([F.conv1d(f.T, k, padding=taps // 2, groups=4)[:, :time].T for f, k in zip(frames, kernels, strict=True)])
    torch.testing.assert_close(placed_by_row(frames, kernels, 4), expected)
    shared = F.conv1d(frames.mT, kernels[0], padding=taps // 2, groups=4)[..., :time].mT
    both = placed(frames, there_and_back(kernels[0], 4), 4), placed_by_row(frames, kernels[:1], 4)
    weight = torch.randn(shared.shape)
    (slope,) = torch.autograd.grad((shared * weight).sum(), frames)
    for found in both:
        torch.testing.assert_close(found, shared, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), frames)[0], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("taps", "stride"), [(3, 1), (5, 2), (4, 4), (2, 3), (7, 3)])
@pytest.mark.parametrize("width", [1, 6])
def test_a_convolution_is_that_of_torch_for_each_row(width: int, taps: int, stride: int) -> None:
    # in the middle of a larger tensor, as a row of a batch is
    frames = torch.randn(4, 23, width)[1:3].requires_grad_()
    kernel, bias = torch.randn(2, 5, width, taps, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    expected = torch.stack([F.conv1d(f.T, k, b, stride).T for f, k, b in zip(frames, kernel, bias, strict=True)])
    found = convolved(frames, kernel, bias, stride)
    torch.testing.assert_close(found, expected)
    weight, inputs = torch.randn(expected.shape), (frames, kernel, bias)
    for own, theirs in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (found, expected)), strict=True):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("name", ["embedded:ctc"])
def test_the_embedded_network_is_that_of_transformers(name: str, noises: list[Waveform]) -> None:
    model: Any = load(name)
    with torch.inference_mode():
        for waveform in noises:
            batch = model.prepare([waveform])
            torch.testing.assert_close(model.emissions(batch).logits[0], model.module(batch.inputs).logits[0], rtol=0, atol=5e-5)


@pytest.mark.parametrize(("scope", "kept"), [("norms", {"frames", "position.back"}), ("norms+features", {"position.there"}), ("all", {})])
@pytest.mark.parametrize(("kind", "norm"), FAMILY)
def test_what_is_kept_is_what_would_be_computed(
    scope: str, kept: Collection[str], kind: str, norm: str, ctc_folder: Folder, noises: list[Waveform]
) -> None:
    model: Any = load(ctc_folder(kind, norm))
    batch = model.prepare(noises)
    known = model.cached(batch, model.select(scope))
    assert {*known.known, *known.fixed}.issuperset(kept)
    assert not any(tensor.requires_grad for tensor in (*known.known.values(), *known.fixed.values()))
    with torch.inference_mode():
        torch.testing.assert_close(model.emissions(known).logits, model.emissions(batch).logits, rtol=0, atol=1e-5)


def test_what_is_kept_goes_into_a_copy(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model: Any = load(ctc_folder("wav2vec2", "layer"))
    known = model.cached(model.prepare(noises), model.select("norms"))
    other = deepcopy(model)
    with torch.inference_mode():
        found = other.emissions(other.cached(other.prepare(noises), other.select("norms")))
        assert torch.equal(found.logits, model.emissions(known).logits)


def test_what_is_kept_of_a_network_follows_its_weights(ctc_folder: Folder, noises: list[Waveform]) -> None:
    model: Any = load(ctc_folder("wav2vec2", "layer"))
    names = model.select("norms+features")
    batch = model.cached(model.prepare(noises[1:2]), names)
    assert model.cached(model.prepare(noises[1:2]), names).fixed is batch.fixed
    with torch.no_grad():
        model.module.get_parameter("wav2vec2.encoder.layers.0.feed_forward.output_dense.weight").mul_(3)
    changed = model.cached(model.prepare(noises[1:2]), names)
    with torch.inference_mode():
        torch.testing.assert_close(model.emissions(changed).logits, model.emissions(model.prepare(noises[1:2])).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(model.emissions(batch).logits, model.emissions(changed).logits, atol=1e-3)


def test_other_networks_and_training_are_left_to_transformers(ctc_folder: Folder) -> None:
    odd: Any = load(ctc_folder("wavlm", "layer"))
    assert Network.of(odd.module, {}) is None
    module = made("wav2vec2", "layer", True)
    assert Network.of(module, {}) is not None
    assert Network.of(module.train(), {}) is None


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"add_adapter": True}, {"adapter_attn_dim": 4}])
def test_odd_parts_are_left_to_transformers(change: dict[str, Any]) -> None:
    assert Network.of(made("wav2vec2", "layer", True, **change), {}) is None


@pytest.mark.parametrize("change", [{"conv_pos_batch_norm": True}, {"feat_proj_layer_norm": False}])
def test_odd_parts_of_hubert_are_left_to_transformers(change: dict[str, Any]) -> None:
    assert Network.of(made("hubert", "layer", True, **change), {}) is None
