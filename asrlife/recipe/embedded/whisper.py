"""The embedded Whisper recogniser: letters as tokens, a six-second window, a CTC head on the encoder while it learns to align."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import Wav2Vec2ForCTC, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from asrlife.recipe.embedded.augment import normalise
from asrlife.recipe.embedded.ctc import LETTERS as LETTER_CLASSES
from asrlife.recipe.embedded.training import RATE, Batch, mixed, pad

WINDOW_S = 6
TICK_S = 0.02
GUIDE_SHIFT = 5  # the CTC front-end has no padding: its frame t is centred where Whisper's frame t + 4.6 is
LETTERS = [*"abcdefghijklmnopqrstuvwxyz'", "Ġ"]
SPECIAL = "endoftext startoftranscript en translate transcribe startoflm startofprev nospeech notimestamps".split()
HEAD_CLASSES = [LETTER_CLASSES.index("|" if c == "Ġ" else c) for c in LETTERS] + [0]  # the head's last class is blank
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


def build(width: int = 192, encoder: int = 6, decoder: int = 3) -> WhisperForConditionalGeneration:
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
    g.begin_suppress_tokens, g.suppress_tokens, g.max_length = [EOT], [], 192  # a text begins with the space letter
    g._from_model_config = False  # or loading makes the settings again from the model's and loses these
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


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Rows of tokens as one tensor (batch, tokens) with -100 behind the shorter ones."""
    ids = torch.full((len(rows), max(map(len, rows))), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def at_random_gain(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whisper's features are of raw audio, so the model must hear it at any level: a peak of -30 to -1 dBFS."""
    return (wave * (10 ** (rng.uniform(-30, -1) / 20) / np.abs(wave).max())).astype(np.float32)


def tick(seconds: float) -> int:
    """The token of a time."""
    return min(FIRST_TIME + round(seconds / TICK_S), VOCABULARY - 1)


class Teacher(torch.nn.Module):
    """The model with the CTC head that makes its attention lock on; only the model is kept."""

    def __init__(self, model: WhisperForConditionalGeneration, ctc_weight: float = 0.5, seed: int = 1) -> None:
        super().__init__()
        self.model, self.ctc_weight = model, ctc_weight
        self.head = torch.nn.Linear(model.config.d_model, len(LETTERS) + 1)
        self.extract, self.rng = feature_extractor(), np.random.default_rng(seed)

    def features(self, waves: list[np.ndarray]) -> torch.Tensor:
        """(batch, 80, 600) log-mel."""
        return self.extract(waves, sampling_rate=RATE, return_tensors="pt").input_features

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy with label smoothing plus weighted CTC per label."""
        windows = [(at_random_gain(wave, self.rng), segments) for wave, segments in pack(batch, self.rng)]
        timed = self.rng.random(len(windows)) < 0.35
        ids = padded([spell(segments, t) for (_, segments), t in zip(windows, timed, strict=True)])
        features, inputs = self.features([w for w, _ in windows]), ids[:, :-1].clamp(min=0)
        with mixed():
            encoded = self.model.model.encoder(features).last_hidden_state
            hidden = self.model.model.decoder(input_ids=inputs, encoder_hidden_states=encoded).last_hidden_state
            logits, frames = self.model.proj_out(hidden), self.head(encoded)
        targets = ids[:, 1:].clone()
        targets[:, :2] = -100  # language and task are always given
        cross = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), label_smoothing=0.1)
        return cross + self.ctc_weight * self.ctc(frames.float(), ids)

    def guided(self, batch: Batch, guide: Wav2Vec2ForCTC) -> torch.Tensor:
        """Encoder alone: CTC per label plus the frame-wise divergence from `guide`, which says where each letter is."""
        windows = [(at_random_gain(wave, self.rng), segments) for wave, segments in pack(batch, self.rng)]
        waves, features = [wave for wave, _ in windows], self.features([wave for wave, _ in windows])
        with mixed():
            frames = self.head(self.model.model.encoder(features).last_hidden_state).float()
            target, valid = frame_targets(guide, waves)
        mine = frames[:, GUIDE_SHIFT : GUIDE_SHIFT + target.shape[1]].log_softmax(-1)
        divergence = (target.exp() * (target - mine)).sum(-1)[valid].mean()
        return divergence + self.ctc(frames, padded([spell(segments, timed=False) for _, segments in windows]))

    def ctc(self, frames: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """CTC per label on the letters alone."""
        letters = [row[(row >= 0) & (row < len(LETTERS))][1:] for row in ids]
        lengths = torch.tensor([len(row) for row in letters])
        scores = frames.log_softmax(-1).transpose(0, 1)
        full = torch.full((len(letters),), frames.shape[1])
        return torch.nn.functional.ctc_loss(scores, torch.cat(letters), full, lengths, blank=len(LETTERS), zero_infinity=True)


def inherit(teacher: Teacher, ctc: Wav2Vec2ForCTC) -> None:
    """Start the encoder from a CTC recogniser of the same width, of as many of its layers, from first to last, as it has itself.

    Both are pre-norm transformers at 20 ms a frame.

    A bias on the keys shifts every score of a query alike and leaves the softmax as it is, so Whisper's missing one loses nothing.
    """
    encoder, source = teacher.model.model.encoder, ctc.wav2vec2.encoder
    pairs = {"k_proj": "k_proj", "v_proj": "v_proj", "q_proj": "q_proj", "out_proj": "out_proj"}
    for mine, place in zip(encoder.layers, spread(len(encoder.layers), len(source.layers)), strict=True):
        theirs = source.layers[place]
        for a, b in pairs.items():
            copy_linear(getattr(mine.self_attn, a), getattr(theirs.attention, b))
        mine.self_attn_layer_norm.load_state_dict(theirs.layer_norm.state_dict())
        mine.final_layer_norm.load_state_dict(theirs.final_layer_norm.state_dict())
        copy_linear(mine.fc1, theirs.feed_forward.intermediate_dense)
        copy_linear(mine.fc2, theirs.feed_forward.output_dense)
    encoder.layer_norm.load_state_dict(source.layer_norm.state_dict())
    with torch.no_grad():
        teacher.head.weight.copy_(ctc.lm_head.weight[HEAD_CLASSES])
        teacher.head.bias.copy_(ctc.lm_head.bias[HEAD_CLASSES])


def spread(few: int, many: int) -> list[int]:
    """`few` places of `many`, first and last among them, at distances as equal as can be."""
    return [int(place) for place in np.ceil(np.linspace(0, many - 1, few))]


def copy_linear(mine: torch.nn.Linear, theirs: torch.nn.Linear) -> None:
    """Weights, and the bias where there is one to take it."""
    with torch.no_grad():
        mine.weight.copy_(theirs.weight)
        if mine.bias is not None:
            mine.bias.copy_(theirs.bias)


@torch.no_grad()
def frame_targets(guide: Wav2Vec2ForCTC, waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a CTC recogniser in the order of the head, shape (batch, frames, classes), and which frames count."""
    audio, mask = pad([normalise(wave) for wave in waves])
    scores = guide(audio, attention_mask=mask).logits.float().log_softmax(-1)[..., HEAD_CLASSES]
    frames = guide._get_feat_extract_output_lengths(mask.sum(-1))
    return scores, torch.arange(scores.shape[1])[None] < frames[:, None]


@torch.inference_mode()
def transcribe_head(teacher: Teacher, waves: list[np.ndarray]) -> list[str]:
    """Greedy decoding of the encoder's CTC head: how far the encoder is without its decoder."""
    encoded = teacher.model.model.encoder(teacher.features([fitted(w) for w in waves])).last_hidden_state
    rows = teacher.head(encoded).argmax(-1).tolist()
    return [joined([i for i, last in zip(row, [-1, *row], strict=False) if i != last]) for row in rows]


@torch.inference_mode()
def transcribe(teacher: Teacher, waves: list[np.ndarray]) -> list[str]:
    """Greedy decoding without timestamps; audio beyond the window is cut."""
    model = teacher.model
    encoded = model.model.encoder(teacher.features([fitted(w) for w in waves]))
    start = torch.tensor([[SOT, EN, TRANSCRIBE, NO_TIMES]] * len(waves))
    ids = model.generate(encoder_outputs=encoded, decoder_input_ids=start, max_new_tokens=100, do_sample=False)
    return [joined(row) for row in ids.tolist()]


def fitted(wave: np.ndarray) -> np.ndarray:
    """A tenth of a second of silence at both ends, and no more than a window."""
    return np.pad(wave, RATE // 10)[: WINDOW_S * RATE]


def joined(ids: list[int]) -> str:
    """The letters among some tokens as words."""
    return " ".join("".join(LETTERS[i] for i in ids if i < len(LETTERS)).replace("Ġ", " ").split())
