"""Retrieval: fine-tune on the labelled utterances that sound most like this one, recognise it, forget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import ClassVar

from asrlife.errors import InputError
from asrlife.methods.online import neighbours
from asrlife.methods.online.descent import Heard
from asrlife.methods.online.method import RATE
from asrlife.methods.online.neighbours import Index
from asrlife.methods.online.practice import Exercise, Practice
from asrlife.methods.settings import Count, CountOrZero, Rate
from asrlife.models.handle import Recogniser

_KEPT = 4  # indices in memory, of the models and corpora used last
_indices: OrderedDict[tuple[str, Path, str], Index] = OrderedDict()
_lock = Lock()


@dataclass(frozen=True)
class Retrieval(Practice):
    """Episodic test-time training on neighbours: local learning (Bottou and Vapnik, 1992) with an encoder's embedding as the distance.

    `corpus` is a manifest with texts, or a `split` of it. The mean of the encoder's output over this utterance chooses the `neighbours`
    of greatest cosine, never the utterance itself; `steps` of Adam on the model's supervised loss over them move the weights. Their sound
    is read when it is needed. `cache` keeps the embeddings of the corpus on disk, see `neighbours.read`.
    """

    name: ClassVar[str] = "retrieval"
    lr: Rate = 1e-4
    steps: CountOrZero = 5
    files: ClassVar[frozenset[str]] = frozenset({"corpus"})
    corpus: str = ""
    split: str = ""
    neighbours: Count = 4
    cache: bool = True

    def ready(self, model: Recogniser) -> None:
        """Read or compute the index; raises InputError without a corpus, and for a model without loss or embedding."""
        if "loss" not in model.capabilities:
            raise InputError(f"{model.name} has no supervised loss, so that nothing can be learnt from neighbours: use suta")
        self._index(model, model.fingerprint(), renewed=True)

    def exercise(self, model: Recogniser, heard: Heard, names: Sequence[str]) -> Exercise | str:
        """The supervised loss of the neighbours; "neighbours" where there are none."""
        vector = model.embed(model.prepare([heard.waveform]))[0]
        index = self._index(model, heard.state.base)
        found = index.nearest(vector, self.neighbours, heard.utterance.id, neighbours.marked(heard.waveform))
        if not found:
            return "neighbours"
        texts = [str(near.text) for near, _ in found]
        batch = model.cached(model.prepare([near.waveform(RATE) for near, _ in found]), names)
        detail: dict[str, float | int | str] = {"neighbours": " ".join(near.id for near, _ in found), "similarity": found[0][1]}
        return Exercise(lambda weights: model.loss(batch, texts, weights), detail)

    def _index(self, model: Recogniser, base: str, renewed: bool = False) -> Index:
        """The index in memory; `renewed`: as the manifest is now."""
        if not self.corpus:
            raise InputError("retrieval needs labelled speech: --set retrieval.corpus=MANIFEST, JSONL with the texts")
        manifest = Path(self.corpus).expanduser()
        key = base, manifest.resolve(), self.split
        with _lock:
            if renewed or key not in _indices:
                _indices[key] = neighbours.read(model, base, manifest, self.split, self.cache)
            _indices.move_to_end(key)
            while len(_indices) > _KEPT:
                _indices.popitem(last=False)
            return _indices[key]
