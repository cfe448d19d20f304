"""Whisper recognisers, with any window that their checkpoint sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from asrlife.errors import InputError
from asrlife.models.confidence import calibrated
from asrlife.models.handle import Batch, Emissions, Handle, Weights, checked_options
from asrlife.models.rowwise import weighted
from asrlife.models.states import States
from asrlife.models.whisper_audio import read_extractor
from asrlife.models.whisper_encoder import ENCODER, body, front, tunes_front
from asrlife.models.whisper_search import barred, beam_path, drawn_path, greedy_path, rules, spread, stacked, tokens_of, uniform
from asrlife.models.whisper_times import Following, following, segments, timed_words
from asrlife.models.whisper_tokens import Control, Spelling, Tokenizer
from asrlife.models.windows import split
from asrlife.text.hypothesis import Hypothesis, Word

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform

TOKENS_PER_S, SPARE_TOKENS = 30, 10  # more than anyone says, letters included: what exceeds it is a hallucination
EMBEDDING, OUTPUT = "model.decoder.embed_tokens.weight", "proj_out.weight"
BARRED = -1e4  # a score whose softmax is 0 and whose entropy has a gradient


@dataclass(frozen=True, eq=False)
class WhisperRecogniser(Handle):
    """A Whisper network with its mel extractor, its control tokens and its spelling."""

    extractor: Any = field(kw_only=True)
    control: Control = field(kw_only=True)
    spelling: Spelling = field(kw_only=True)
    alignment_heads: tuple[tuple[int, int], ...] = field(kw_only=True)

    @property
    def capabilities(self) -> frozenset[str]:
        """Everything; emissions need a path."""
        return frozenset({"emissions", "path", "loss", "generate", "timestamps"})

    @property
    def blank(self) -> None:
        """There is no blank class."""
        return None

    @property
    def window(self) -> float:
        """Longest audio that `prepare` takes, in s."""
        return float(self.extractor.n_samples - self.edge) / self.rate

    def prepare(self, waveforms: Sequence[Waveform]) -> Batch:
        """Log-mel windows (batch, bands, frames), silence behind the audio, and before it where the card asks for it.

        `lengths` count the silence before, not that behind. Raises InputError for no audio and for audio longer than the window.
        """
        if not waveforms:
            raise InputError("nothing to recognise: give at least one waveform")
        rows = [np.pad(waveform.resampled(self.rate).samples, (self.edge, 0)) for waveform in waveforms]
        longest = max(map(len, rows))
        if longest > self.extractor.n_samples:
            seconds = (longest - self.edge) / self.rate
            raise InputError(f"{seconds:.2f} s of audio exceed the model's window of {self.window:.2f} s: call transcribe, which splits it")
        with torch.autocast("cpu", enabled=False):  # the extractor goes through numpy, which knows no bfloat16
            mel = self.extractor(rows, sampling_rate=self.rate, return_tensors="pt").input_features
        return Batch(mel.to(self.device), None, torch.tensor([len(row) for row in rows], device=self.device))

    def cached(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The batch with what none of `names` can change: the states of the encoder, or what its convolutions give."""
        if self.module.training or tunes_front(names):
            return batch
        with torch.no_grad():
            if any(name.startswith(ENCODER) for name in names):
                return replace(batch, known={"frames": front(self._network.model.encoder, batch.inputs)})
            return replace(batch, known={"states": self._encode(batch)})

    def states(self, batch: Batch, layer: int | None = None, weights: Weights | None = None) -> States:
        """The encoder's output where there is sound; raises InputError for an inner layer."""
        if layer is not None:
            raise InputError("the inner layers of Whisper cannot be read: leave the layer out, or use embedded:ctc")
        with self._under(weights):
            values = self._encode(batch)
        return States(values, (batch.lengths / (2 * self.extractor.hop_length)).ceil().long().clamp(max=values.shape[1]))

    def path(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Greedy text tokens (batch, steps), rows closed with the end token; no gradient."""
        with torch.inference_mode(), self._under(weights):
            rows = self._search(self._encode(batch), batch, self.control.prompt(None, False), False)
        return stacked(rows, self.control.end).to(self.device)

    def followed(self, hypotheses: Sequence[Hypothesis]) -> Tensor:
        """The path (batch, steps) of hypotheses that `decode` found: no second search for emissions along them."""
        return stacked([hypothesis.tokens for hypothesis in hypotheses], self.control.end).to(self.device)

    def drawn(self, batch: Batch, noise: Sequence[torch.Generator], count: int, weights: Weights | None = None) -> Tensor:
        """Paths (batch * count, steps) drawn from the model at temperature 1, the `count` of each utterance one after the other.

        An utterance uses its own generator in `noise` (on the CPU), and as many numbers of it alone as in a batch.
        """
        prompt = self.control.prompt(None, False)
        rule = self._rules(batch, prompt, False)
        chances = uniform(noise, self._caps(batch, prompt), count)
        with torch.inference_mode():
            states = self._states(batch, weights, count)
            with self._under(weights, count):
                found = drawn_path(self._network, states, prompt, rule, self.control.end, chances)
        return found.clone()  # autograd takes no tensor of inference mode

    def emissions(self, batch: Batch, path: Tensor | None = None, weights: Weights | None = None, closed: bool = False) -> Emissions:
        """Differentiable logits (batch, steps, text tokens) that predict `path`, from one teacher-forced forward.

        Special tokens, times and the end of text are left out of the classes; without a path the greedy one is found first. A path of
        batch * k rows holds k for each utterance, one after the other, which share its encoder states. `closed`: with the end of
        text as the last class and the last step, and with scores of -10,000 where decoding bars a token, so that their softmax is what
        `drawn` draws from.
        """
        followed = self.path(batch, weights) if path is None else path
        prompt, count = self.control.prompt(None, False), len(followed) // len(batch.lengths)
        steps = ((followed >= self.control.end).long().cumsum(-1) == 0).sum(-1)
        states = self._states(batch, weights, count)
        with self._under(weights, count):
            logits = self._forced(states, prompt, followed)
        if not closed:
            return Emissions(logits[..., : self.control.end], steps)
        open_ones = logits[..., : self.control.end + 1].masked_fill(barred(self.control, logits.shape[1], self.device), BARRED)
        # the end that the limit of a row forces is no choice
        return Emissions(open_ones, torch.minimum(steps + 1, self._caps(batch, prompt).repeat_interleave(count)))

    def decode(
        self, batch: Batch, emissions: Emissions | None = None, beam: int = 1, lm: str | None = None,
        weights: Weights | None = None, *, timestamps: str = "words", language: str | None = None,
    ) -> list[Hypothesis]:  # fmt: skip
        """Generate greedily (`beam` 1) or by beam search, times from cross-attention.

        `timestamps` "segments": the model writes time tokens, and the hypothesis has a segment in place of each word.
        `emissions` are not used. Raises InputError for an n-gram, an unknown language, or another kind of timestamps.
        """
        if lm is not None:
            raise InputError("an n-gram works with CTC recognisers only: leave lm out, or use embedded:ctc")
        if beam < 1 or timestamps not in {"words", "segments"}:
            raise InputError(f"beam must be 1 or more and timestamps 'words' or 'segments', not {beam} and {timestamps!r}")
        timed = timestamps == "segments"
        prompt = self.control.prompt(language, timed)
        with torch.inference_mode():
            states = self._states(batch, weights)
            with self._under(weights, beam):
                rows = self._search(states, batch, prompt, timed, beam)
            with self._under(weights):
                found = self._hypotheses(states, batch, prompt, rows, timed)
        return found if timed else [calibrated(said, self.card, adapted=bool(weights)) for said in found]

    def transcribe(self, waveforms: Sequence[Waveform], beam: int = 1, batch_size: int = 8, **options: Any) -> list[Hypothesis]:
        """One hypothesis for each waveform; what exceeds the window is split at pauses. Options as the keywords of `decode`."""
        known = checked_options(options, ("lm", "timestamps", "language"))
        pieces = [(index, *piece) for index, waveform in enumerate(waveforms) for piece in split(waveform, self.window)]
        parts: list[list[tuple[float, Hypothesis]]] = [[] for _ in waveforms]
        for first in range(0, len(pieces), max(1, batch_size)):
            some = pieces[first : first + max(1, batch_size)]
            found = self.decode(self.prepare([piece for _, _, piece in some]), beam=beam, **known)
            for (index, start, _), hypothesis in zip(some, found, strict=True):
                parts[index].append((start, hypothesis))
        return [joined(part) for part in parts]

    def loss(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Tensor:
        """Cross-entropy per label, the end token among the labels; raises InputError for a text the decoder has no room for."""
        rows = [self.spelling.ids(f" {text.strip()}") for text in texts]
        prompt = self.control.prompt(None, False)
        longest = max(map(len, rows))
        if longest > self._room(prompt):
            raise InputError(f"a text has {longest} tokens, the decoder takes {self._room(prompt)}: split the utterance")
        path = stacked(rows, self.control.end).to(self.device)
        with self._under(weights):
            logits = self._forced(self._encode(batch), prompt, path)
        counted = (path == self.control.end).long().cumsum(-1) < 2
        return cross_entropy(logits[counted], path[counted])

    def _under(self, weights: Weights | None, count: int = 1) -> AbstractContextManager[None]:
        """The network with `weights`, each row of them `count` times; a tied output layer goes with its embedding."""
        if self._network.config.tie_word_embeddings and weights and EMBEDDING in weights:
            weights = {**weights, OUTPUT: weights[EMBEDDING]}
        return weighted(self.module, spread(weights, count))

    def _encode(self, batch: Batch) -> Tensor:
        if "states" in batch.known:
            return batch.known["states"]
        encoder = self._network.model.encoder
        return body(encoder, batch.known["frames"]) if "frames" in batch.known else encoder(batch.inputs).last_hidden_state

    def _states(self, batch: Batch, weights: Weights | None, count: int = 1) -> Tensor:
        """Encoder states under `weights`, each of them `count` times."""
        with self._under(weights):
            return self._encode(batch).repeat_interleave(count, 0)

    def _forced(self, states: Tensor, prompt: Sequence[int], path: Tensor) -> Tensor:
        """Logits (batch, steps, classes) float32 that predict `path` (batch, steps), each token given those before it."""
        start = torch.tensor([list(prompt)] * len(path), device=path.device)
        ids = torch.cat([start, path[:, :-1]], 1)
        hidden = self._network.model.decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False).last_hidden_state
        return self._network.proj_out(hidden[:, len(prompt) - 1 :]).float()

    def _search(self, states: Tensor, batch: Batch, prompt: Sequence[int], timed: bool, beam: int = 1) -> list[list[int]]:
        caps, rule = self._caps(batch, prompt), self._rules(batch, prompt, timed)
        if beam == 1:
            found = greedy_path(self._network, states, prompt, rule, self.control.end)
        else:
            found = beam_path(self._network, states, prompt, rule, self.control.end, beam, int(caps.max()) + 1)
        return [tokens_of(row, self.control.end, cap) for row, cap in zip(found, caps.tolist(), strict=True)]

    def _rules(self, batch: Batch, prompt: Sequence[int], timed: bool) -> Any:
        return rules(self.control, self._network.config.vocab_size, len(prompt), self._caps(batch, prompt), timed)

    def _caps(self, batch: Batch, prompt: Sequence[int]) -> Tensor:
        """Most tokens (batch,) of each row."""
        return (batch.lengths * TOKENS_PER_S // self.rate + SPARE_TOKENS).clamp(max=self._room(prompt))

    def _room(self, prompt: Sequence[int]) -> int:
        return int(self._network.config.max_target_positions) - len(prompt)

    def _hypotheses(self, states: Tensor, batch: Batch, prompt: Sequence[int], rows: list[list[int]], timed: bool) -> list[Hypothesis]:
        path = stacked(rows, self.control.end).to(self.device)
        with following(self._network.model.decoder, self.alignment_heads) as seen:
            # scores that overflowed say nothing, and no NaN leaves
            log_probs = self._forced(states, prompt, path).nan_to_num().log_softmax(-1)
        chosen = log_probs.gather(-1, path[..., None])[..., 0].cpu()
        found = []
        for index, (row, samples) in enumerate(zip(rows, batch.lengths.tolist(), strict=True)):
            score = float(chosen[index, : len(row) + 1].mean())
            parts = self._segments(row, chosen[index], samples) if timed else self._words(row, chosen[index], seen, index, samples)
            text = " ".join(self.spelling.text([token for token in row if token < self.control.end]).split())
            found.append(Hypothesis(text, tuple(row), tuple(parts), score))
        return found

    def _segments(self, row: Sequence[int], chosen: Tensor, samples: int) -> Iterator[Word]:
        length = (samples - self.edge) / self.rate
        return segments(row, chosen, length, self.edge / self.rate, self.control, self.spelling)

    def _words(self, row: Sequence[int], chosen: Tensor, seen: Following, index: int, samples: int) -> Iterator[Word]:
        hop, prompt = 2 * self.extractor.hop_length, len(self.control.prompt(None, False))
        places = seen.starts(index, prompt, len(row), min(ceil(samples / hop), self._network.config.max_source_positions))
        starts = np.clip((places * hop - self.edge) / self.rate, 0.0, (samples - self.edge) / self.rate)
        return timed_words(row, chosen, starts, self.control, self.spelling)

    @cached_property
    def _network(self) -> Any:
        return self.module


def joined(parts: Sequence[tuple[float, Hypothesis]]) -> Hypothesis:
    """One hypothesis from those of successive pieces and their starts in s; the score is the mean over all steps."""
    steps = [len(part.tokens) + 1 for _, part in parts]
    return Hypothesis(
        " ".join(part.text for _, part in parts if part.text),
        tuple(token for _, part in parts for token in part.tokens),
        tuple(Word(w.text, w.start + start, w.end + start, w.confidence) for start, part in parts for w in part.words),
        sum(part.score * count for (_, part), count in zip(parts, steps, strict=True)) / sum(steps),
        prod(found) if (found := [part.confidence for _, part in parts if part.confidence is not None]) else None,
    )


def read_whisper(folder: Path, name: str) -> WhisperRecogniser:
    """A Whisper checkpoint of Hugging Face's layout; raises InputError for a damaged one or one without tokenizer."""
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

    from asrlife.models.checkpoint import card_of, quiet, read_weights
    from asrlife.models.vocabulary import read_json

    module: Any = read_weights(folder, WhisperForConditionalGeneration)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise InputError(f"{folder} has neither tokenizer.json nor vocab.json: add the tokenizer of the checkpoint")
    with quiet():
        tokenizer = WhisperTokenizer.from_pretrained(folder)
    config = read_json(folder / "generation_config.json")  # transformers drops settings that it thinks it derived itself
    extractor = read_extractor(folder, module.config)
    return WhisperRecogniser(
        name, module, extractor.sampling_rate, card=card_of(folder), extractor=extractor, control=Control.of(config),
        spelling=Tokenizer(tokenizer), alignment_heads=aligning(config.get("alignment_heads"), module.config),
    )  # fmt: skip


def aligning(heads: Sequence[Sequence[int]] | None, config: Any) -> tuple[tuple[int, int], ...]:
    """The heads that follow the audio: those named, else all of the upper half of the decoder."""
    if heads:
        return tuple((layer, head) for layer, head in heads)
    upper = range(config.decoder_layers // 2, config.decoder_layers)
    return tuple((layer, head) for layer in upper for head in range(config.decoder_attention_heads))
