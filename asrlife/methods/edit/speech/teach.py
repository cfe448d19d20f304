"""`teach(model, utterances, speech)`: utterances in, a low-rank delta out, the recogniser as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asrlife.data.utterance import Utterance
from asrlife.delta.delta import Change, Delta, Dense, LowRank
from asrlife.errors import InputError
from asrlife.methods.edit.algebra import Covariance, emmet
from asrlife.methods.edit.speech.lessons import Lesson, lessons
from asrlife.methods.edit.speech.listeners import Listener, listener
from asrlife.methods.edit.speech.places import Place, Where, covariance, given, place
from asrlife.methods.edit.speech.wanted import Search, additions, lacking, least_change
from asrlife.methods.settings import CountOrZero, NotNegative, Positive, check, typed

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.handle import Recogniser


@dataclass(frozen=True)
class Settings:
    """Where and how strongly: `ridge` 0 makes the taught steps say exactly what is wanted, more leaves other words more alone.

    `where` is the head of a CTC network, or the feed-forward or cross-attention of block `layer`, None the last one, of its encoder or of
    Whisper's decoder; a head wants a smaller ridge, some 5. Targets are to win by `margin` (nats). `bias`: the bias of the layer moves too.
    `shrinkage` is the share of the identity in the covariance.
    """

    where: Where = "mlp"
    layer: CountOrZero | None = None
    ridge: NotNegative = 60.0
    margin: NotNegative = 2.0
    bias: bool = False
    shrinkage: Positive = 1e-3
    search: Search = Search()

    @property
    def name(self) -> str:
        """What a fault of a setting is told under."""
        return "teach"

    def __post_init__(self) -> None:
        check(self, ("search",))


def settings_of(told: Mapping[str, Any]) -> Settings:
    """Settings from YAML or a command line; raises InputError naming the nearest key or the broken limit."""
    return Settings(**typed(Settings, told, "teach"))


@dataclass(frozen=True, eq=False)
class Bench:
    """What all edits of one model at one place share."""

    listener: Listener
    place: Place
    covariance: Covariance


def bench(
    model: Recogniser, speech: Sequence[Waveform], settings: Settings = Settings(), advance: Callable[[], None] = lambda: None
) -> Bench:
    """The place and the covariance of what it is given over `speech`, which is to stay as it is heard."""
    listens = listener(model)
    at = place(listens, settings.where, settings.layer, settings.bias)
    return Bench(listens, at, covariance(listens, at, speech, settings.shrinkage, advance))


def teach(
    model: Recogniser, utterances: Sequence[Utterance], speech: Sequence[Waveform] = (), word: str | None = None,
    settings: Settings = Settings(), at: Bench | None = None,
) -> Delta:  # fmt: skip
    """The delta after which `model` writes the texts of `utterances` (or the `word` of them alone), and `speech` as before.

    R (K' C^-1 K + ridge I)^-1 K' C^-1 over all taught steps: K their keys, R the wanted change of scores (head) or of the module's output
    (elsewhere), C the second moment of keys over `speech` (arXiv 2403.14236, eq. 7). The model itself is left as it
    was, bit for bit. `at` is a bench to use again. Raises InputError for what cannot be taught, and where nothing is to change.
    """
    found = lessons(model, utterances, word)
    at = at or bench(model, speech, settings)
    keys, residuals = wanted(at, found, settings)
    if settings.ridge == 0 and keys.shape[1] > keys.shape[0]:
        raise InputError(f"{keys.shape[1]} steps cannot all be met exactly with keys of {keys.shape[0]} dimensions: use a ridge above 0")
    solved = emmet(residuals, keys, at.covariance, settings.ridge)
    return Delta(model.fingerprint(), _tensors(at.place, solved), _note(model, found, settings, at.place, word, keys.shape[1]))


def wanted(at: Bench, found: Sequence[Lesson], settings: Settings) -> tuple[Tensor, Tensor]:
    """Keys (in, n) and residuals (out, n), float64, of all taught steps of lessons; zero where the target wins already.

    Raises InputError where it does so everywhere.
    """
    with torch.inference_mode(False):
        parts = [part for lesson in found for part in _wanted(at, lesson, settings)]
    if not parts:
        raise InputError("nothing to teach: the model writes all of it already, by the margin that was asked for")
    return torch.cat([part[0] for part in parts]).T, torch.cat([part[1] for part in parts]).T


def _wanted(at: Bench, lesson: Lesson, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    batch = at.listener.heard(lesson)
    for steps in at.listener.courses(lesson):
        with torch.no_grad(), given(at.place, at.listener.skipped) as seen:
            scores = at.listener.scores(batch, steps)
        wrong = lacking(scores, steps.targets, settings.margin) & steps.taught
        if not bool(wrong.any()):
            continue
        if at.place.scores:
            change = least_change(scores[wrong].double(), steps.targets[wrong], settings.margin)
        else:
            change = additions(at.listener, at.place, batch, steps, wrong, settings.margin, settings.search).double()
        residuals = torch.zeros(len(wrong), change.shape[1], dtype=change.dtype, device=change.device)
        residuals[wrong] = change
        yield at.place.keys(seen[-1][steps.taught]).double().cpu(), residuals[steps.taught].cpu()


def _tensors(at: Place, change: LowRank) -> dict[str, Change]:
    """In float32; the constant's column is the change of the bias."""
    up, down = change.up.float().contiguous(), change.down.float()
    if not at.bias:
        return {f"{at.name}.weight": LowRank(up, down.contiguous())}
    return {
        f"{at.name}.weight": LowRank(up, down[:, :-1].contiguous()),
        f"{at.name}.bias": Dense((change.up @ change.down[:, -1]).float()),
    }


def _note(model: Recogniser, found: Sequence[Lesson], settings: Settings, at: Place, word: str | None, steps: int) -> dict[str, Any]:
    evidence = {"texts": [lesson.text for lesson in found], "word": word, "steps": steps}
    return {"method": "teach", "of": model.name, "evidence": evidence, "settings": asdict(settings), "at": at.name}
