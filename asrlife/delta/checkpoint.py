"""A checkpoint of any architecture by the names its files give: lazy views of the mapped bytes, and the files that go with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from asrlife.delta.fingerprint import EMBEDDINGS, fingerprint
from asrlife.delta.shards import Entry, Shard
from asrlife.errors import InputError

INDEX = ".safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.bin.index.json", "*.msgpack", "*.h5")
CARRIED = ("*.json", "*.jsonl", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.vocab", "*.bpe", "*.py", "*.yaml", "LICENSE*", "NOTICE*")
"""What goes with the weights: configuration, processor, tokenizer, vocabulary, generation, chat template, code, licence."""
LEFT = ("*.index.json", "trainer_state.json", "training_args.json", "all_results.json", "train_results.json", "eval_results.json")
"""What tells of the weights' own past or place, and would be untrue of others."""
CONVERT = "convert it once where you trust it: transformers' AutoModelFor...from_pretrained(OLD).save_pretrained(NEW)"
HEADS = ("lm_head.weight", "proj_out.weight", "embed_out.weight", "embed_tokens.weight", "output.weight", "decoder.weight")


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a folder or file by name, each once, as views of the files; in the order of their names.

    `entries` says of each where it lies (dtype, shape, file, first byte), `tied` gives for every second copy of a tied tensor the name
    under which it is listed, `metadata` is what the file's header says besides.
    """

    def __init__(self, path: Path, shards: Iterable[Shard]) -> None:
        self.path = path
        self._shards = {shard.path: shard for shard in shards}
        self.metadata: Mapping[str, str] = next((shard.metadata for shard in self._shards.values()), {})
        stored = {name: entry for shard in self._shards.values() for name, entry in shard.entries.items()}
        self.stored: Mapping[str, Entry] = MappingProxyType(dict(sorted(stored.items())))
        self.tied: Mapping[str, str] = MappingProxyType(self._ties())
        self.entries: Mapping[str, Entry] = MappingProxyType({n: entry for n, entry in self.stored.items() if n not in self.tied})

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Open a Hugging Face folder, one .safetensors file or an index file; only headers are read.

        Raises InputError for pickles, a missing or empty index, shards that are absent, cut short, damaged or not those the index names.
        """
        where = Path(path).expanduser()
        if where.is_dir():
            where = _weights(where)
        if not where.is_file():
            raise InputError(f"there is no {where}: give a checkpoint's folder or its .safetensors file")
        if where.name.endswith(INDEX):
            return cls(where.parent, _indexed(where))
        shard = Shard(where)
        if shard.metadata.get("format") == "asrlife delta":
            raise InputError(f"{where} is a delta, not a checkpoint: apply it to its base with `asrlife delta apply`")
        return cls(Path(path).expanduser(), [shard])

    def __getitem__(self, name: str) -> Tensor:
        return self.raw(name)

    def raw(self, name: str) -> Tensor:
        """The tensor as it is in the file, whatever is put on it besides."""
        return self._shards[self.stored[name].path].view(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @property
    def folder(self) -> Path:
        """Where the files that go with the weights are."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files, read as far as their headers."""
        return tuple(self._shards.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the tensors are made of."""
        return tuple(sorted(self._shards))

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes."""
        return fingerprint(self)

    @property
    def nbytes(self) -> int:
        """The size of all tensors, each once."""
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def config(self) -> Mapping[str, Any]:
        """What config.json says; {} without one, InputError where it does not read."""
        return _json(self.folder / "config.json") if (self.folder / "config.json").is_file() else {}

    def carried(self) -> tuple[Path, ...]:
        """The files that a checkpoint made from this one must have beside its weights; none where this is a lone file."""
        if not self.path.is_dir():
            return ()
        found = {path for pattern in CARRIED for path in self.path.glob(pattern) if path.is_file()}
        chats = set((self.path / "additional_chat_templates").glob("*.jinja"))
        return tuple(sorted(path for path in found | chats if not any(path.match(pattern) for pattern in LEFT)))

    def _ties(self) -> dict[str, str]:
        """A head that holds the bytes of the embedding is one tensor with it, unless the configuration says otherwise."""
        alike = sorted(
            (name for name in self.stored if name.endswith((*EMBEDDINGS, *HEADS))), key=lambda n: (not n.endswith(EMBEDDINGS), n)
        )
        if len(alike) < 2 or self.config.get("tie_word_embeddings") is False:
            return {}
        ties: dict[str, str] = {}
        for place, name in enumerate(alike):
            first = next((first for first in alike[:place] if first not in ties and self._same(first, name)), None)
            if first is not None:
                ties[name] = first
        return ties

    def _same(self, one: str, other: str) -> bool:
        mine, theirs = self.stored[one], self.stored[other]
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            return False
        one_bytes, other_bytes = (self[name].reshape(-1).view(torch.uint8) for name in (one, other))
        # most that differ do so at once
        return torch.equal(one_bytes[:4096], other_bytes[:4096]) and torch.equal(one_bytes, other_bytes)


def check_alike(base: Checkpoint, other: Checkpoint, among: Collection[str] | None = None) -> None:
    """Raise InputError naming the tensors that only one of the two has, or that have another shape; dtypes may differ.

    `among`: the tensors that count, all unless given; what else `other` has does not matter then.
    """
    faults = []
    for lacking, having in ((other, base), (base, other)) if among is None else ((other, base),):
        absent = [name for name in having if name not in lacking.stored and (among is None or name in among)]
        if absent:
            faults.append(f"{lacking.path} lacks {_some(absent)} of {having.path}")
    shapes = [
        f"{name!r} {list(entry.shape)} in {base.path} and {list(other.stored[name].shape)} in {other.path}"
        for name, entry in base.entries.items()
        if name in other.stored and other.stored[name].shape != entry.shape and (among is None or name in among)
    ]
    if shapes:
        faults.append(f"shapes differ: {'; '.join(shapes[:3])}{f' and {len(shapes) - 3} more' if len(shapes) > 3 else ''}")
    if faults:
        raise InputError(f"{'. '.join(faults)}: give checkpoints of one architecture and size, or leave these tensors out")


def _some(names: list[str]) -> str:
    shown, kind = ", ".join(map(repr, names[:3])), "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {kind} such as {shown}" if len(names) > 3 else f"the {kind} {shown}"


def _weights(folder: Path) -> Path:
    indexes, files = sorted(folder.glob(f"*{INDEX}")), sorted(folder.glob("*.safetensors"))
    for wanted in (folder / f"model{INDEX}", folder / "model.safetensors"):
        if wanted.is_file():
            return wanted
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds a peft adapter, not a checkpoint: make it a delta with `asrlife delta import`")
    if len(indexes) == 1 or len(files) == 1:
        return (indexes or files)[0]
    pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if not files and pickles:
        raise InputError(f"{folder} holds only {pickles[0].name}, which is no safetensors (pickles can run code): {CONVERT}")
    if not files:
        raise InputError(f"{folder} holds no *.safetensors: give the folder of a whole checkpoint")
    raise InputError(f"{folder} holds {len(files)} .safetensors and none is model.safetensors, nor is there an index: name the file")


def _indexed(index: Path) -> list[Shard]:
    table = _json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise InputError(f"{index} names no tensors: its 'weight_map' must give a file for each; copy or download it again")
    for file in sorted(set(table.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{index} names {file!r}, which is no .safetensors file of its own folder")
        if not (index.parent / file).is_file():
            raise InputError(f"{index} names {file!r}, which is not there: copy or download the missing shard")
    shards = [Shard(index.parent / file) for file in sorted(set(table.values()))]
    found = {(name, shard.path.name) for shard in shards for name in shard.entries}
    for name, file in sorted(set(table.items()) - found):
        raise InputError(f"{index} says that {name!r} is in {file!r}, where it is not: index and shards are of different checkpoints")
    for name, file in sorted(found - set(table.items())):
        raise InputError(f"{file!r} holds {name!r}, which {index} does not name there: index and shards are of different checkpoints")
    return shards


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not read ({error}): copy or download it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object: copy or download it again")
    return found
