"""A small wav2vec2-conformer that hears through the front-end of the embedded CTC recogniser and is guided by it while it learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, Wav2Vec2ForCTC

from asrlife.recipe.embedded.augment import normalise
from asrlife.recipe.embedded.ctc import configure, labels_of
from asrlife.recipe.embedded.training import Batch, mixed, pad
from asrlife.recipe.embedded.whisper import copy_linear


def build(hidden: int = 192, layers: int = 6) -> Wav2Vec2ConformerForCTC:
    """A new model with the convolutions of the CTC recogniser below and conformer blocks (arXiv 2005.08100) above.

    Positions come from the blocks' convolutions alone, so that attention may start from a network that had no others in it.
    """
    below = configure(hidden, layers).to_dict()
    own = {"model_type", "architectures", "do_stable_layer_norm"}
    kept = {name: value for name, value in below.items() if name not in own}
    kept |= {"position_embeddings_type": None, "conv_depthwise_kernel_size": 31, "conformer_conv_dropout": 0.0}
    return Wav2Vec2ConformerForCTC(Wav2Vec2ConformerConfig(**kept))


def inherit(model: Wav2Vec2ConformerForCTC, ctc: Wav2Vec2ForCTC, scales: Sequence[float]) -> None:
    """Start as nearly as can be as a CTC recogniser of the same width and depth.

    A conformer block is a transformer block with half a feed-forward and a convolution more, which start silent, and a norm behind it,
    which keeps the residual stream at `scales`, its deviation behind each block of `ctc`.
    """
    mine, theirs = model.wav2vec2_conformer, ctc.wav2vec2
    mine.feature_extractor.load_state_dict(theirs.feature_extractor.state_dict())
    mine.feature_projection.load_state_dict(theirs.feature_projection.state_dict())
    model.lm_head.load_state_dict(ctc.lm_head.state_dict())
    mine.encoder.layer_norm.load_state_dict(theirs.encoder.layer_norm.state_dict())
    for block, source, scale in zip(mine.encoder.layers, theirs.encoder.layers, scales, strict=True):
        for name, other in (("linear_q", "q_proj"), ("linear_k", "k_proj"), ("linear_v", "v_proj"), ("linear_out", "out_proj")):
            copy_linear(getattr(block.self_attn, name), getattr(source.attention, other))
        block.self_attn_layer_norm.load_state_dict(source.layer_norm.state_dict())
        block.ffn2_layer_norm.load_state_dict(source.final_layer_norm.state_dict())
        block.ffn2.load_state_dict(source.feed_forward.state_dict())
        with torch.no_grad():
            block.ffn2.output_dense.weight.mul_(2)  # a conformer adds half of it
            block.ffn2.output_dense.bias.mul_(2)
            block.ffn1.output_dense.weight.zero_()
            block.ffn1.output_dense.bias.zero_()
            block.conv_module.pointwise_conv2.weight.zero_()
            block.final_layer_norm.weight.fill_(scale)


@torch.no_grad()
def deviations(ctc: Wav2Vec2ForCTC, batch: Batch) -> list[float]:
    """The standard deviation of the residual stream behind each block."""
    audio, mask = pad([normalise(wave) for wave, _ in batch])
    states = ctc(audio, attention_mask=mask, output_hidden_states=True).hidden_states
    stream = (*states[1:-1], states[-1])
    return [float(state.std(-1).mean()) for state in stream]


def loss(model: Wav2Vec2ConformerForCTC, batch: Batch, guide: Wav2Vec2ForCTC) -> torch.Tensor:
    """CTC per label plus the mean divergence of each frame from `guide`, which has the same frames and letters."""
    audio, mask = pad([normalise(wave) for wave, _ in batch])
    with mixed():
        with torch.no_grad():
            target = guide(audio, attention_mask=mask).logits.float().log_softmax(-1)
        heard = model(audio, attention_mask=mask, labels=labels_of(batch))
    frames = guide._get_feat_extract_output_lengths(mask.sum(-1))
    valid = torch.arange(target.shape[1])[None] < frames[:, None]
    divergence = (target.exp() * (target - heard.logits.float().log_softmax(-1))).sum(-1)[valid].mean()
    return heard.loss + divergence
