"""Fine-tuning by names and files: what `asrlife tune` and the step "tune" do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from asrlife.errors import InputError
from asrlife.recipe.keeping import keeps
from asrlife.recipe.registry import Bar, Place, Step

if TYPE_CHECKING:
    from asrlife.data.corpus import Corpus
    from asrlife.delta.delta import Delta
    from asrlife.methods.tune import Settings, Watch
    from asrlife.models.handle import Recogniser
    from asrlife.models.text import TextModel

CHECKPOINT = ".checkpoint.safetensors"
LANGUAGE = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Source:
    """A manifest, or for a language model a file of texts, and the part of it that is meant."""

    path: Path
    split: str | None = None
    limit: int | None = None

    def read(self, of_texts: bool = False) -> Corpus:
        """The utterances; for a language model "audio" is not needed, and a .txt file has one text a line."""
        from asrlife.recipe.evaluation import corpus_of

        return texts(self.path, self.split, self.limit) if of_texts else corpus_of(self.path, self.split, self.limit)

    def told(self) -> dict[str, Any]:
        """The part and a digest of the file, which tells a changed manifest from the one before."""
        return {"digest": hashlib.sha256(self.path.read_bytes()).hexdigest(), "split": self.split, "limit": self.limit}


@dataclass(frozen=True)
class Order:
    """What is asked for: a model by name, the sets, controls as text (see `asrlife.recipe.keeping`), settings."""

    model: str
    train: Source
    settings: Settings
    dev: Source | None = None
    test: Source | None = None
    keep: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[str, Source]:
        """The sets that are given."""
        given = {"train": self.train, "dev": self.dev, "test": self.test}
        for name, source in given.items():
            if source is not None and not source.path.is_file():
                raise InputError(f"{name}: {source.path}: no such file; check the path")
        return {name: source for name, source in given.items() if source is not None}

    def told(self, model: Recogniser | TextModel) -> dict[str, Any]:
        """What tells this order from another, as JSON."""
        sets = {name: source.told() for name, source in self.sources.items()}
        found = {"from": model.fingerprint(), **sets, "keep": list(self.keep), "settings": asdict(self.settings)}
        told: dict[str, Any] = json.loads(json.dumps(found))
        return told


@dataclass(frozen=True, eq=False)
class Made:
    """The delta in its file; `kept` where an earlier run had made it already, and what was wrong with the data."""

    path: Path
    delta: Delta
    kept: bool
    problems: tuple[str, ...] = ()
    test: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """For `--json` and results.json."""
        note = self.delta.note
        figures = {key: note[key] for key in ("scores", "history", "seconds", "evidence", "settings", "keep")}
        size = {"norm": self.delta.norm(), "tensors": len(self.delta.tensors), "bytes": self.path.stat().st_size}
        return {"delta": str(self.path), "base": self.delta.base, "kept": self.kept, **size, **figures, "test": self.test} | {
            "problems": list(self.problems)
        }


def made(order: Order, out: Path, watch: Watch, resume: Path | None = None, fresh: bool = False) -> Made:
    """Tune and write `out`; an `out` that the same order made is kept, and a run that was cut off goes on.

    Raises InputError for an `out` of another order, and as `asrlife.methods.tune.tune` does.
    """
    from asrlife.delta import file
    from asrlife.methods.tune import tune

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: the name of a delta file ends in .safetensors")
    sources = order.sources
    model = opened(order.model)
    asked = order.told(model)
    if out.exists() and not fresh:
        return _kept(order, model, out, asked, watch)
    path = resume or out.with_name(out.stem + CHECKPOINT)
    if fresh:
        path.unlink(missing_ok=True)
    of_texts = hasattr(model, "speller")
    sets = {name: source.read(of_texts) for name, source in sources.items()}
    controls = keeps(order.keep, lambda *part: Source(*part).read(of_texts))
    found = tune(
        model, sets["train"], sets.get("dev"), order.settings, keep=controls, test=sets.get("test"), resume=path, watch=watch
    )  # fmt: skip
    delta = _noted(found.delta, asked)
    file.save(delta, out)
    path.unlink(missing_ok=True)
    return Made(out, delta, False, found.problems, tested(order, model, delta, watch))


def _noted(delta: Delta, asked: Mapping[str, Any]) -> Delta:
    from asrlife.delta.delta import Delta

    return Delta(delta.base, delta.tensors, {**delta.note, "asked": dict(asked)})


def _kept(order: Order, model: Recogniser | TextModel, out: Path, asked: Mapping[str, Any], watch: Watch) -> Made:
    from asrlife.delta import file

    delta = file.load(out)
    if delta.note.get("asked") != asked:
        raise InputError(f"{out} is there already, made otherwise: choose another --out, or make it anew with --fresh")
    return Made(out, delta, True, (), tested(order, model, delta, watch))


def tested(order: Order, model: Any, delta: Delta, watch: Watch) -> dict[str, Any] | None:
    """WER, or perplexity, on the test set without and with the delta; None without a test set."""
    from asrlife.delta.weights import applied

    if order.test is None:
        return None
    of_texts = hasattr(model, "speller")
    utterances = [utterance for utterance in order.test.read(of_texts) if (utterance.text or "").strip()]
    if of_texts:
        said = [str(utterance.text) for utterance in utterances]
        before = model.perplexity(said)
        with applied(model.module, delta):
            return {"perplexity": {"before": before, "after": model.perplexity(said)}, "n": len(said)}
    from asrlife.evaluate.evaluation import Rate
    from asrlife.evaluate.forgetting import Change, counts

    with watch.stage("testing", 2 * len(utterances)) as advance:
        first = counts(model, utterances, advance)
        with applied(model.module, delta):
            second = counts(model, utterances, advance)
    rates = {"before": asdict(Rate.of(first)), "after": asdict(Rate.of(second))}
    return {"wer": rates, "difference": asdict(Change.of(first, second)), "n": len(utterances)}


def opened(name: str) -> Recogniser | TextModel:
    """A recogniser or a causal language model, whichever the name is of."""
    from asrlife.models.load import load
    from asrlife.models.text import known_texts, load_text
    from asrlife.models.vocabulary import read_json

    config = Path(name).expanduser() / "config.json"
    if name == "embedded:lm" or name in known_texts():
        return load_text(name)
    if config.is_file() and str((read_json(config).get("architectures") or [""])[0]).endswith(LANGUAGE):
        return load_text(name)
    return load(name)


def texts(path: Path, split: str | None = None, limit: int | None = None) -> Corpus:
    """Texts without sound: one a line of a .txt file, or the rows of a JSONL file with "text"; ids are "id", or the number of the line.

    Raises InputError for a line that is no JSON object, and where nothing is left.
    """
    from asrlife.data.corpus import Corpus

    rows = list(_texts(path, split))[: limit or None]
    if not rows:
        raise InputError(f"{path}: holds no texts{f' of split {split!r}' if split else ''}; write one a line")
    return Corpus(tuple(rows), path)


def _texts(path: Path, split: str | None) -> Iterator[Any]:
    import numpy as np

    from asrlife.audio.waveform import Waveform
    from asrlife.data.utterance import Utterance

    silence = Waveform(np.zeros(0, np.float32), 16_000)
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        row = _row(path, number, line)
        if line.strip() and (split is None or row.get("split") == split):
            text = row.get("text")
            yield Utterance(str(row.get("id", number)), silence, text if isinstance(text, str) else None, split=row.get("split"))


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    if path.suffix == ".txt" or not line.strip():
        return {"text": line.strip()}
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}:{number}: broken line ({error}); write one JSON object a line, or name the file .txt") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: broken line (no object); write one JSON object a line, or name the file .txt")
    return row


class BarWatch:
    """A recipe's bar as a watch of tuning."""

    def __init__(self, bar: Bar, label: str) -> None:
        self._bar, self._label = bar, label

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A bar of its own."""
        with self._bar(f"{self._label}: {name}", total) as advance:
            yield advance

    def tell(self, text: str) -> None:
        """A recipe's bar has no room for it."""


class Tune(Step):
    """Fine-tune `model` on `train` into out:FILE; `tune` are settings of `asrlife.methods.tune.Settings`, `keep` forgetting controls."""

    kind: Literal["tune"]
    file: str
    train: str
    dev: str | None = None
    test: str | None = None
    train_split: str | None = None
    dev_split: str | None = None
    test_split: str | None = None
    limit: PositiveInt | None = None
    model: str = "embedded:ctc-tts"
    tune: Mapping[str, Any] = {}
    keep: tuple[str, ...] = ()
    threads: PositiveInt = 1

    def run(self, place: Place) -> Mapping[str, Any]:
        """Tune, or keep what an earlier run with the same settings made."""
        import torch

        torch.set_num_threads(self.threads)
        parts = {"train": (self.train, self.train_split), "dev": (self.dev, self.dev_split), "test": (self.test, self.test_split)}
        found = {name: Source(place.path(path), split) for name, (path, split) in parts.items() if path is not None}
        train = Source(found["train"].path, self.train_split, self.limit)
        order = Order(self.model, train, settings_of(self.tune), found.get("dev"), found.get("test"), placed(self.keep, place))
        return made(order, place.out / self.file, BarWatch(place.bar, self.file)).to_json()


def settings_of(told: Mapping[str, Any]) -> Settings:
    """Settings from YAML or a command line; raises InputError naming the nearest key or the broken limit."""
    from asrlife.methods.settings import typed
    from asrlife.methods.tune import Settings

    return Settings(**typed(Settings, told, "tune"))


def placed(keep: Sequence[str], place: Place) -> tuple[str, ...]:
    """Controls with the files that they name where the recipe means them."""
    from asrlife.recipe.keeping import parsed

    def found(text: str) -> str:
        name, settings = parsed(text)
        settings |= {key: str(place.path(settings[key])) for key in ("data", "earlier") if key in settings}
        return f"{name}:{';'.join(f'{key}={value}' for key, value in settings.items())}"

    return tuple(map(found, keep))
