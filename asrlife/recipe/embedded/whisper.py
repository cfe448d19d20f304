"""The embedded Whisper recogniser: letters as tokens, a six-second window, a CTC head on the encoder while it learns to align."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from asrlife.recipe.embedded.training import RATE, Batch

WINDOW_S = 6
TICK_S = 0.02
LETTERS = [*"abcdefghijklmnopqrstuvwxyz'", "Ġ"]
SPECIAL = "endoftext startoftranscript en translate transcribe startoflm startofprev nospeech notimestamps".split()
EOT, SOT, EN, TRANSCRIBE, PREVIOUS, NO_TIMES = (len(LETTERS) + i for i in (0, 1, 2, 4, 6, 8))
FIRST_TIME = len(LETTERS) + len(SPECIAL)
VOCABULARY = FIRST_TIME + int(WINDOW_S / TICK_S) + 1


def tokenizer() -> WhisperTokenizer:
    """Letters, Whisper's special tokens, one token every 20 ms."""
    special = [f"<|{name}|>" for name in SPECIAL]
    made = WhisperTokenizer({t: i for i, t in enumerate(LETTERS + special)}, [], extra_special_tokens=special[1:])
    made.add_tokens([f"<|{i * TICK_S:.2f}|>" for i in range(VOCABULARY - FIRST_TIME)], special_tokens=False)
    made.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
    return made


def feature_extractor() -> WhisperFeatureExtractor:
    """80 log-mel bands of a six-second window."""
    return WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)


def build(width: int = 192, encoder: int = 5, decoder: int = 3) -> WhisperForConditionalGeneration:
    """A new model; the frames of its window fix `max_source_positions`."""
    config = WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=80, d_model=width, encoder_layers=encoder, decoder_layers=decoder,
        encoder_attention_heads=width // 48, decoder_attention_heads=width // 48, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        max_source_positions=WINDOW_S * 50, max_target_positions=192, dropout=0.05, attention_dropout=0.0, activation_dropout=0.0,
        pad_token_id=EOT, bos_token_id=EOT, eos_token_id=EOT, decoder_start_token_id=SOT, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    g = model.generation_config
    g.is_multilingual, g.lang_to_id, g.task_to_id = True, {"<|en|>": EN}, {"transcribe": TRANSCRIBE}
    g.no_timestamps_token_id, g.language, g.task = NO_TIMES, "en", "transcribe"
    g.begin_suppress_tokens, g.suppress_tokens, g.max_length = [LETTERS.index("Ġ"), EOT], [], 192
    g.prev_sot_token_id, g.max_initial_timestamp_index = PREVIOUS, 50
    g.alignment_heads = [[decoder - 1, head] for head in range(width // 48)]
    return model


@dataclass(frozen=True)
class Segment:
    """A stretch of speech inside a window; times in seconds."""

    start: float
    end: float
    text: str


def speech_bounds(wave: np.ndarray) -> tuple[float, float]:
    """First and last 20 ms frame within 25 dB of the loudest, in seconds."""
    frames = wave[: len(wave) // 320 * 320].reshape(-1, 320)
    energy = (frames**2).mean(1)
    loud = np.flatnonzero(energy > energy.max() / 316)
    return float(loud[0]) * TICK_S, float(loud[-1] + 1) * TICK_S


def pack(batch: Batch, rng: np.random.Generator) -> list[tuple[np.ndarray, list[Segment]]]:
    """Put one or two utterances into each six-second window; what is too long is left out."""
    windows: list[tuple[np.ndarray, list[Segment]]] = []
    for wave, text in batch:
        if len(wave) > WINDOW_S * RATE:
            continue
        start, end = speech_bounds(wave)
        last, segments = windows[-1] if windows else (np.zeros(WINDOW_S * RATE), [])
        if len(segments) == 1 and len(last) + len(wave) <= WINDOW_S * RATE and rng.random() < 0.7:
            shift = round(len(last) / RATE / TICK_S) * TICK_S
            windows[-1] = (np.concatenate([last, wave]), [*segments, Segment(start + shift, end + shift, text)])
        else:
            windows.append((wave, [Segment(start, end, text)]))
    return windows


def spell(segments: list[Segment], timed: bool) -> list[int]:
    """Decoder tokens of a window, from the start token to the end token."""
    tokens = [SOT, EN, TRANSCRIBE] if timed else [SOT, EN, TRANSCRIBE, NO_TIMES]
    for segment in segments:
        tokens += [tick(segment.start)] if timed else []
        tokens += [LETTERS.index("Ġ" if c == " " else c) for c in f" {segment.text}"]
        tokens += [tick(segment.end)] if timed else []
    return [*tokens, EOT]


def tick(seconds: float) -> int:
    """The token of a time."""
    return min(FIRST_TIME + round(seconds / TICK_S), VOCABULARY - 1)


class Teacher(torch.nn.Module):
    """The model with the CTC head that makes its attention lock on; only the model is kept."""

    def __init__(self, model: WhisperForConditionalGeneration, ctc_weight: float = 0.5, seed: int = 1) -> None:
        super().__init__()
        self.model, self.ctc_weight = model, ctc_weight
        self.head = torch.nn.Linear(model.config.d_model, len(LETTERS) + 1)  # the last class is blank
        self.extract, self.rng = feature_extractor(), np.random.default_rng(seed)

    def features(self, waves: list[np.ndarray]) -> torch.Tensor:
        """(batch, 80, 600) log-mel."""
        return self.extract(waves, sampling_rate=RATE, return_tensors="pt").input_features

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy with label smoothing plus weighted CTC per label."""
        windows = pack(batch, self.rng)
        timed = self.rng.random(len(windows)) < 0.35
        tokens = [spell(segments, t) for (_, segments), t in zip(windows, timed, strict=True)]
        ids = torch.full((len(tokens), max(map(len, tokens))), -100)
        for row, line in enumerate(tokens):
            ids[row, : len(line)] = torch.tensor(line)
        features, inputs = self.features([w for w, _ in windows]), ids[:, :-1].clamp(min=0)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = self.model.model.encoder(features).last_hidden_state
            hidden = self.model.model.decoder(input_ids=inputs, encoder_hidden_states=encoded).last_hidden_state
            logits, frames = self.model.proj_out(hidden), self.head(encoded)
        targets = ids[:, 1:].clone()
        targets[:, :2] = -100  # language and task are always given
        cross = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), label_smoothing=0.1)
        return cross + self.ctc_weight * self.ctc(frames.float(), ids)

    def ctc(self, frames: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """CTC per label on the letters alone."""
        letters = [row[(row >= 0) & (row < len(LETTERS))][1:] for row in ids]
        lengths = torch.tensor([len(row) for row in letters])
        scores = frames.log_softmax(-1).transpose(0, 1)
        full = torch.full((len(letters),), frames.shape[1])
        return torch.nn.functional.ctc_loss(scores, torch.cat(letters), full, lengths, blank=len(LETTERS), zero_infinity=True)


@torch.inference_mode()
def transcribe(teacher: Teacher, waves: list[np.ndarray]) -> list[str]:
    """Greedy decoding without timestamps; audio beyond the window is cut."""
    model = teacher.model
    encoded = model.model.encoder(teacher.features([np.pad(w, 1600)[: WINDOW_S * RATE] for w in waves]))
    start = torch.tensor([[SOT, EN, TRANSCRIBE, NO_TIMES]] * len(waves))
    ids = model.generate(encoder_outputs=encoded, decoder_input_ids=start, max_new_tokens=100, do_sample=False)
    return [" ".join("".join(LETTERS[i] for i in row if i < len(LETTERS)).replace("Ġ", " ").split()) for row in ids.tolist()]
