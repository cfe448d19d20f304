"""An index of labelled utterances by what an encoder makes of them: which of them sound like this one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.files import atomic, cache_folder
from asrlife.methods.online.method import RATE, held
from asrlife.models.handle import Recogniser

_LOG = logging.getLogger("asrlife")
_FORMAT = 1
_BATCH = 8
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Index:
    """Labelled utterances with a unit vector each, `vectors` (n, width) float32, and the SHA-256 of their sound, `marks` (n, 32) uint8."""

    utterances: tuple[Utterance, ...]
    vectors: Tensor
    marks: Tensor

    def nearest(self, vector: Tensor, count: int, own: str, mark: Tensor) -> list[tuple[Utterance, float]]:
        """The `count` utterances of greatest cosine with `vector` (width,), best first.

        Never the utterance itself, which is one with the id `own`, or the id that a second pass over a corpus has made it from
        ("a#2" from "a"), or the same sound (`mark` (32,)).
        """
        similar = self.vectors @ torch.nn.functional.normalize(vector.detach().cpu().float(), dim=0)
        ids = {own, re.sub(r"#\d+$", "", own)}
        itself = (self.marks == mark).all(1) | torch.tensor([utterance.id in ids for utterance in self.utterances])
        similar = similar.masked_fill(itself | ~similar.isfinite(), -torch.inf)
        values, places = similar.topk(min(count, len(similar)))
        found = zip(values.tolist(), places.tolist(), strict=True)
        return [(self.utterances[place], value) for value, place in found if value > -torch.inf]


def marked(waveform: Waveform) -> Tensor:
    """SHA-256 of the sound as 16-bit PCM, (32,) uint8: the same in every lossless format."""
    return torch.frombuffer(bytearray(hashlib.sha256(waveform.pcm16()).digest()), dtype=torch.uint8)


def labelled(manifest: Path, split: str) -> list[Utterance]:
    """The utterances of a manifest, or of one split of it, that have a text and a sound file; raises InputError where there are none."""
    corpus = Corpus.read(manifest)
    for problem in corpus.problems:
        _LOG.warning("%s", problem)
    found = [utterance for utterance in (corpus.split(split) if split else corpus) if (utterance.text or "").strip()]
    if not found:
        raise InputError(f"{manifest}: no utterance has a text; retrieval learns from labelled speech")
    return found


def read(model: Recogniser, base: str, manifest: Path, split: str, cache: bool) -> Index:
    """The index of a manifest under the model with fingerprint `base`: kept from an earlier run, or computed and kept.

    It is computed again when the model, the manifest, or a sound file's size or time changes, and when the kept file is damaged.
    """
    utterances = labelled(manifest, split)
    key = _key(base, manifest, split, utterances)
    path = folder() / f"{key}.safetensors"
    kept = _kept(path, key, utterances) if cache else None
    if kept is not None:
        return kept
    index, places = _computed(model, utterances)
    if cache:
        _keep(path, key, index, places)
    return index


def folder() -> Path:
    """Where indices are kept: $XDG_CACHE_HOME/asrlife/retrieval, by default in ~/.cache."""
    return cache_folder("retrieval")


def _key(base: str, manifest: Path, split: str, utterances: Sequence[Utterance]) -> str:
    digest = hashlib.sha256(json.dumps([_FORMAT, base, split]).encode())
    digest.update(manifest.read_bytes())
    for utterance in utterances:
        found = Path(str(utterance.audio)).stat()
        digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
    return digest.hexdigest()


def _computed(model: Recogniser, utterances: Sequence[Utterance]) -> tuple[Index, list[int]]:
    places: list[int] = []
    vectors: list[Tensor] = []
    marks: list[Tensor] = []
    with held(model), torch.no_grad():
        for some in _batches(utterances):
            waveforms = [waveform for _, waveform in some]
            places += [place for place, _ in some]
            vectors.append(torch.nn.functional.normalize(model.embed(model.prepare(waveforms)).cpu().float(), dim=1))
            marks += [marked(waveform) for waveform in waveforms]
    if not places:
        raise InputError(f"none of {len(utterances)} labelled sound files can be used: check the corpus of retrieval")
    return Index(tuple(utterances[place] for place in places), torch.cat(vectors), torch.stack(marks)), places


def _batches(utterances: Sequence[Utterance]) -> Iterator[list[tuple[int, Waveform]]]:
    """What can be read, with its place, some at a time; a bar shows how far it is."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    some: list[tuple[int, Waveform]] = []
    bar = track(utterances, "index of the corpus", console=console, transient=True, disable=not console.is_terminal)
    for place, utterance in enumerate(bar):
        try:
            some.append((place, utterance.waveform(RATE)))
        except InputError as error:
            _LOG.warning("retrieval leaves %s out: %s", utterance.id, error)
        if len(some) == _BATCH:
            yield some
            some = []
    if some:
        yield some


def _keep(path: Path, key: str, index: Index, places: Sequence[int]) -> None:
    tensors = {"vectors": index.vectors, "marks": index.marks, "places": torch.tensor(places)}
    data = safetensors.torch.save(tensors, {"note": json.dumps({"key": key, "sum": _sum(tensors)}, sort_keys=True)})
    try:
        with atomic(path) as file:
            file.write(data)
    except OSError as error:
        _LOG.warning("the index of the corpus cannot be kept in %s (%s): it will be computed again", path.parent, error.strerror)


def _kept(path: Path, key: str, utterances: Sequence[Utterance]) -> Index | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            note = json.loads(file.metadata()["note"])
            tensors = {name: file.get_tensor(name) for name in ("vectors", "marks", "places")}
            if note != {"key": key, "sum": _sum(tensors)}:
                raise ValueError("its numbers are not those that were written")
            chosen = tuple(utterances[place] for place in tensors["places"].tolist())
    except (*_DAMAGE, IndexError) as error:
        _LOG.warning("%s is damaged (%s): computing the index again", path, error)
        return None
    return Index(chosen, tensors["vectors"], tensors["marks"])


def _sum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
