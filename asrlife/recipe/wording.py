"""A word taught by files and names: what `asrlife edit word` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.recipe.teach_a_name.said import everyday, spoken, waves

if TYPE_CHECKING:
    from asrlife.delta.delta import Delta
    from asrlife.models.handle import Recogniser

VOICES = ("en-us+f3", "en-us+m3", "en-gb-x-rp+f2")
EVERYDAY = 100  # sentences that hold an edit back where no others are given


@dataclass(frozen=True)
class Order:
    """What is asked for: recordings with their texts, sentences that `voices` read (`word` as `pronounced`, if given), and speech to keep.

    Without a manifest `keep` everyday sentences read aloud stand for what must stay.
    """

    model: str
    out: Path
    word: str | None = None
    recordings: tuple[tuple[Path, str], ...] = ()
    say: tuple[str, ...] = ()
    voices: tuple[str, ...] = VOICES
    pronounced: str = ""
    keep: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Done:
    """The delta in its file, and what was heard of each utterance before and after: taught ones, and those that were to stay."""

    path: Path
    delta: Delta
    taught: tuple[tuple[str, str, str], ...]  # text, before, after
    kept: tuple[tuple[str, str], ...]  # before, after

    @property
    def moved(self) -> int:
        """Utterances that were to stay and are heard otherwise."""
        return sum(before != after for before, after in self.kept)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        rows = [{"text": text, "before": before, "after": after} for text, before, after in self.taught]
        changed = [{"before": before, "after": after} for before, after in self.kept if before != after]
        size = {"norm": self.delta.norm(), "at": self.delta.note["at"], "settings": self.delta.note["settings"]}
        return {"delta": str(self.path), "base": self.delta.base, **size, "taught": rows, "kept": len(self.kept), "changed": changed}


def made(order: Order, advance: Callable[[], None] = lambda: None) -> Done:
    """Teach and write `order.out`.

    Raises InputError for a file that is there already, neither recordings nor sentences, and as `teach` does; nothing is written then.
    """
    from asrlife.delta import file
    from asrlife.delta.weights import applied
    from asrlife.methods.edit.speech.teach import bench, settings_of, teach
    from asrlife.models.load import load

    _check_out(order.out)
    settings, utterances = settings_of(order.settings), utterances_of(order)
    model = load(order.model)
    keep = kept_of(order)
    delta = teach(model, utterances, word=order.word, settings=settings, at=bench(model, waves(keep), settings, advance))
    before = _heard(model, [*utterances, *keep])
    with applied(model.module, delta):
        after = _heard(model, [*utterances, *keep])
    file.save(delta, order.out)
    count = len(utterances)
    taught = zip((str(one.text) for one in utterances), before[:count], after[:count], strict=True)
    return Done(order.out, delta, tuple(taught), tuple(zip(before[count:], after[count:], strict=True)))


def utterances_of(order: Order) -> list[Utterance]:
    """What teaches: recordings, then sentences read aloud; raises InputError where there is neither, or a sentence lacks the word."""
    if not order.recordings and not order.say:
        raise InputError("nothing to teach from: give --audio FILE with its --text, or --say SENTENCE to have it read aloud")
    if order.pronounced and (order.word is None or not order.say):
        raise InputError("--pronounced says how --word is to be read in --say: give both")
    if order.word is not None and (missing := [text for text in order.say if order.word not in text]):
        raise InputError(f"{order.word!r} is not in {missing[0]!r}: spell it there as it is to be written")
    recorded = [Utterance(str(path), path, text) for path, text in order.recordings]
    return [*recorded, *spoken(order.say, order.voices, order.word or "", order.pronounced, order.seed)]


def kept_of(order: Order) -> Sequence[Utterance]:
    """What is to stay: the rows of the manifest, or everyday sentences."""
    from asrlife.recipe.evaluation import corpus_of

    return corpus_of(order.keep, None, None).utterances if order.keep is not None else everyday(EVERYDAY, order.seed)


def _check_out(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise InputError(f"--out {path}: the name of a delta file ends in .safetensors")
    if path.exists():
        raise InputError(f"--out {path}: is there already; choose another name, or remove it")


def _heard(model: Recogniser, utterances: Sequence[Utterance]) -> list[str]:
    return [one.text for one in model.transcribe([utterance.waveform(model.rate) for utterance in utterances])]
