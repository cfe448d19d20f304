"""Merging beside mergekit: CPU-seconds, anonymous memory, and bytes moved over time against a plain copy of the same files.

    python benchmarks/merge.py                                       small: 20 million random bfloat16 parameters, base and 2 experts
    python benchmarks/merge.py --parameters 0.55e9 --mergekit VENV   full size; VENV is an environment with mergekit 0.1.5
    python benchmarks/merge.py --threads 2 --merge ties ties-0.2 --json
    python benchmarks/merge.py --dtype float32 --mergekit VENV       entries that have mergekit's bits: the column "same"
    python benchmarks/merge.py --further                             with the inputs' fingerprints; loaded and run once

Every merge is a process of its own on files in the page cache; CPU-seconds are of the whole process with its imports, "start" is the part
that imports took, memory is the largest RssAnon seen. Nobody waits for the disk. Unless told, the result is not loaded and inputs get no
fingerprints, as mergekit does neither. Bytes moved are those of all inputs and of the output, each once, whatever a method reads twice;
GB/s are of the merge without imports. The copy is of the base's file to a new one with as many threads, the fastest of three ways: mapped
to mapped, mapped and written, read and written. "memory" copies from one array to another: no file, no fresh page.
"same" is the share of entries that have the bits of mergekit's. In bfloat16 mergekit rounds after every step; DARE draws its own lots.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.shards import Spec
from asrlife.delta.writer import Writer

HALF: dict[str, Any] = {"weight": 0.5}
MERGES: dict[str, dict[str, Any]] = {  # merge_method, parameters of all, of each; how many experts; with the base?
    "linear": {"each": HALF, "base": False},
    "task_arithmetic": {"each": HALF},
    "ties": {"each": HALF | {"density": 0.5}},
    "ties-0.2": {"method": "ties", "each": HALF | {"density": 0.2}},
    "dare_ties": {"each": HALF | {"density": 0.5}},
    "slerp": {"all": {"t": 0.5}, "experts": 1},
    "model_stock": {},
}
FURTHER = {"fingerprints": {"fingerprints": True}, "check": {"check": True}}
MODELS = ("base", "one", "other")
SPREAD = 0.1
REPEATS = 3
PIECE = 1 << 18


def main() -> None:
    """Make the models, copy, merge, and print a row for each."""
    options = _options()
    if options.child:
        return print(json.dumps(_merged(Path(options.child), options)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder)
        facts = _made(place, options)
        facts |= _copies(place, options.threads) | {"threads": options.threads, "load": os.getloadavg()[0], "cores": os.cpu_count()}
        rows = [row for merge in options.merge for row in _rows(place, merge, options, facts)]
    if options.json:
        return print(json.dumps({"facts": facts, "rows": rows}, indent=2))
    print(", ".join(f"{key} {value:.4g}" for key, value in facts.items()))
    print(f"{'merge':16} {'who':20} {'CPU-s':>7} {'start':>6} {'wall s':>7} {'anon MB':>8} {'GB/s':>6} {'of copy':>8} {'same':>9}")
    for row in rows:
        speed = f"{row['gb_s']:6.2f} {row['gb_s'] / facts['copy_gb_s']:8.0%}" if row.get("gb_s") else " " * 15
        same = f"{row['same']:9.4%}" if "same" in row else ""
        print(
            f"{row['merge']:16} {row['who']:20} {row['cpu_s']:7.1f} {row['start_s']:6.1f} {row['wall_s']:7.1f} {row['anon_mb']:8.0f} "
            f"{speed} {same}"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=2e7, help="of each model")
    parser.add_argument("--merge", nargs="+", choices=MERGES, default=list(MERGES))
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="of all models and of the result")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mergekit", type=Path, help="a virtual environment with mergekit 0.1.5")
    parser.add_argument("--further", action="store_true", help="also with fingerprints, and with the result loaded and run once")
    parser.add_argument("--folder", type=Path, help="where the models are made; the system's temporary folder unless given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="more", choices=FURTHER, help=argparse.SUPPRESS)
    return parser.parse_args()


def _made(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Random Llamas of 8 layers; written by name, never built."""
    width = max(64, round(2048 * math.sqrt(options.parameters / 0.542e9) / 64) * 64)
    inner, vocabulary = width * 11 // 4, width * 125 // 8
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": 8, "num_attention_heads": width // 64, "num_key_value_heads": width // 64, "vocab_size": vocabulary,
        "tie_word_embeddings": False, "torch_dtype": options.dtype,
    }  # fmt: skip
    shapes = {"model.embed_tokens": (vocabulary, width), "lm_head": (vocabulary, width), "model.norm": (width,)}
    for layer in range(8):
        shapes |= {f"model.layers.{layer}.self_attn.{part}_proj": (width, width) for part in "qkvo"}
        shapes |= {f"model.layers.{layer}.mlp.{part}_proj": (inner, width) for part in ("gate", "up")}
        shapes |= {f"model.layers.{layer}.mlp.down_proj": (width, inner)}
        shapes |= {f"model.layers.{layer}.{norm}_layernorm": (width,) for norm in ("input", "post_attention")}
    specs = {f"{name}.weight": Spec(getattr(torch, options.dtype), shape) for name, shape in shapes.items()}
    for number, model in enumerate(MODELS):
        with Writer(place / model, specs, durable=False) as writer:
            for name, spec in specs.items():
                writer.put(name, _random(spec, name, number))
            writer.carry([], {"config.json": json.dumps(config)})
            writer.finish()
    sizes = [spec.nbytes for spec in specs.values()]
    return {"parameters": sum(spec.numel for spec in specs.values()), "model_gb": sum(sizes) / 1e9, "largest_mb": max(sizes) / 1e6}


def _random(spec: Spec, name: str, number: int) -> torch.Tensor:
    def drawn(seed: int) -> torch.Tensor:
        return torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed + sum(name.encode()) * 31 + len(name)))

    return drawn(0) if number == 0 else drawn(0).add_(drawn(number), alpha=SPREAD)


def _copies(place: Path, threads: int) -> dict[str, float]:
    """GB/s, read and written, of copying the base's file, and of copying as much in memory."""
    source, target = place / "base" / "model.safetensors", place / "copy"
    best: dict[str, float] = {}
    for way in (_mapped, _sent, _read) * REPEATS:
        target.unlink(missing_ok=True)
        best[way.__name__] = max(best.get(way.__name__, 0), _speed(way, source, target, threads))
    target.unlink()
    there, here = np.zeros(1 << 28, np.uint8), np.ones(1 << 28, np.uint8)
    half = len(here) // threads

    def fill(part: int) -> None:
        there[part * half : (part + 1) * half] = here[part * half : (part + 1) * half]

    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        list(pool.map(fill, list(range(threads)) * REPEATS))
        memory = 2 * REPEATS * len(here) / (time.perf_counter() - begun) / 1e9
    return {"copy_gb_s": max(best.values())} | {f"{name.strip('_')}_gb_s": value for name, value in best.items()} | {"memory_gb_s": memory}


def _speed(way: Callable[[int, int, int, int], None], source: Path, target: Path, threads: int) -> float:
    size = source.stat().st_size
    with source.open("rb") as one, target.open("w+b") as other, ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        os.posix_fallocate(other.fileno(), 0, size)
        edges = [size * part // threads // mmap.PAGESIZE * mmap.PAGESIZE for part in range(threads)] + [size]
        list(pool.map(lambda span: way(one.fileno(), other.fileno(), *span), itertools.pairwise(edges)))
        return 2 * size / (time.perf_counter() - begun) / 1e9


def _mapped(one: int, other: int, start: int, stop: int) -> None:
    with mmap.mmap(other, stop - start, offset=start) as target:
        np.frombuffer(target, np.uint8)[:] = np.frombuffer(_view(one, start, stop), np.uint8)


def _sent(one: int, other: int, start: int, stop: int) -> None:
    source = memoryview(_view(one, start, stop))
    for first in range(0, stop - start, PIECE):
        os.pwrite(other, source[first : first + PIECE], start + first)


def _read(one: int, other: int, start: int, stop: int) -> None:
    piece = memoryview(bytearray(PIECE))
    for first in range(start, stop, PIECE):
        count = os.preadv(one, [piece[: min(PIECE, stop - first)]], first)
        os.pwrite(other, piece[:count], first)


def _view(file: int, start: int, stop: int) -> mmap.mmap:
    return mmap.mmap(file, stop - start, offset=start, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)


def _rows(place: Path, merge: str, options: argparse.Namespace, facts: dict[str, Any]) -> list[dict[str, Any]]:
    config = place / f"{merge}.yaml"
    config.write_text(yaml.safe_dump(_config(place, merge, options.dtype)))
    moved = facts["model_gb"] * (1 + len(_inputs(merge)))
    child = [sys.executable, __file__, "--child", str(config), "--threads", str(options.threads)]
    rows = []
    for more in (None, *(FURTHER if options.further else ())):
        tries = []
        for _ in range(REPEATS):  # the first may still have to compile
            shutil.rmtree(place / "ours", ignore_errors=True)
            said, row = _measured([*child, *(["--with", more] if more else [])])
            tries.append(row | json.loads(said))
        best = min(tries, key=lambda row: row["cpu_s"])
        rows.append({"merge": merge, "who": f"asrlife, {more}" if more else "asrlife", **best, "gb_s": moved / best["seconds"]})
    if options.mergekit:
        rows.append(_theirs(place, config, options))
        rows[0]["same"] = _same(place / "ours", place / "theirs")
        shutil.rmtree(place / "theirs")
    return rows


def _theirs(place: Path, config: Path, options: argparse.Namespace) -> dict[str, Any]:
    program = str(options.mergekit / "bin" / "mergekit-yaml")
    start = min(_measured([program, "--help"])[1]["cpu_s"] for _ in range(2))
    command = [program, str(config), str(place / "theirs"), "--no-copy-tokenizer", "--num-threads", str(options.threads)]
    return {"merge": config.stem, "who": "mergekit", "start_s": start, **_measured(command)[1]}


def _same(one: Path, other: Path) -> float:
    """The share of entries that have the same bits."""
    ours, theirs = Checkpoint.open(one), Checkpoint.open(other)
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{one} and {other} do not hold the same tensors")
    equal = sum(int(torch.count_nonzero(ours[name] == theirs[name])) for name in ours)
    return equal / sum(entry.numel for entry in ours.entries.values())


def _inputs(merge: str) -> list[str]:
    wanted = MERGES[merge]
    return ["base"] * wanted.get("base", True) + ["one", "other"][: wanted.get("experts", 2)]


def _config(place: Path, merge: str, dtype: str) -> dict[str, Any]:
    wanted = MERGES[merge]
    experts = [{"model": str(place / model), "parameters": wanted.get("each", {})} for model in _inputs(merge) if model != "base"]
    base = {"base_model": str(place / "base")} if wanted.get("base", True) else {}
    both = [{"model": str(place / "base")}] if merge == "slerp" else []  # mergekit wants the base listed
    return {
        "merge_method": wanted.get("method", merge), "models": both + experts, "parameters": wanted.get("all", {}), "dtype": dtype, **base,
    }  # fmt: skip


def _merged(config: Path, options: argparse.Namespace) -> dict[str, float]:
    """A merge in this process: its seconds, and the CPU-seconds that came before."""
    from asrlife.methods.merge import fused, run
    from asrlife.methods.merge.config import read
    from asrlife.methods.merge.plan import plan

    torch.set_num_threads(options.threads)
    fused.available()
    wanted, out = read(config), config.parent / "ours"
    begun, start = time.perf_counter(), time.process_time()
    found = plan(wanted, run.opened(wanted))
    run.run(found, out, threads=options.threads, durable=False, **({"check": False, "fingerprints": False} | FURTHER.get(options.more, {})))
    return {"seconds": time.perf_counter() - begun, "start_s": start}


def _measured(command: list[str]) -> tuple[str, dict[str, float]]:
    """What a process printed, its CPU-seconds and those of its children, its wall time, and the most anonymous memory it had."""
    begun, before, anonymous = time.perf_counter(), os.times(), 0
    with tempfile.TemporaryFile("w+") as out:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} if "--child" in command else None
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        while process.poll() is None:
            anonymous = max(anonymous, _anonymous(process.pid))
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        said = out.read()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return said, {"cpu_s": cpu, "wall_s": time.perf_counter() - begun, "anon_mb": anonymous / 1e3}


def _anonymous(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
