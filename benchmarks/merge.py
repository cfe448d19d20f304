"""Merging beside mergekit: CPU-seconds, anonymous memory, and bytes moved over time against a plain copy of the same files.

    python benchmarks/merge.py                                       small: 20 million random bfloat16 parameters, base and 2 experts
    python benchmarks/merge.py --parameters 0.55e9 --mergekit VENV   full size; VENV is an environment with mergekit 0.1.5
    python benchmarks/merge.py --threads 2 --method ties --json

Every merge is a process of its own on files in the page cache; CPU-seconds are of the whole process with its imports, memory is the
largest RssAnon seen. Nobody waits for the disk. Here the result is not loaded and inputs get no fingerprints, as mergekit does neither.
Bytes moved are those of all inputs and of the output, each once, whatever a method reads twice; `seconds` are of the merge without imports.
The copy maps the base's file and a new one, as the merge does, with as many threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.shards import Spec
from asrlife.delta.writer import Writer

METHODS = {"linear": {"weight": 0.5}, "task_arithmetic": {"weight": 0.5}, "ties": {"weight": 0.5, "density": 0.5}}
MODELS = ("base", "one", "other")
SPREAD = 0.1
REPEATS = 3


def main() -> None:
    """Make the models, copy, merge, and print a row for each."""
    options = _options()
    if options.child:
        return print(json.dumps(_merged(Path(options.child), options)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder)
        facts = _made(place, options.parameters)
        facts["copy_gb_s"] = max(_copied(place, options.threads) for _ in range(REPEATS))
        facts |= {"threads": options.threads, "load": os.getloadavg()[0], "cores": os.cpu_count()}
        rows = [row for method in options.method for row in _rows(place, method, options, facts)]
    if options.json:
        return print(json.dumps({"facts": facts, "rows": rows}, indent=2))
    print(", ".join(f"{key} {value:.4g}" for key, value in facts.items()))
    print(f"{'method':16} {'who':12} {'CPU-s':>7} {'wall s':>7} {'anon MB':>8} {'GB/s':>6} {'of copy':>8}")
    for row in rows:
        speed = f"{row['gb_s']:6.2f} {row['gb_s'] / facts['copy_gb_s']:8.0%}" if row.get("gb_s") else ""
        print(f"{row['method']:16} {row['who']:12} {row['cpu_s']:7.1f} {row['wall_s']:7.1f} {row['anon_mb']:8.0f} {speed}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=2e7, help="of each model")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mergekit", type=Path, help="a virtual environment with mergekit 0.1.5")
    parser.add_argument("--folder", type=Path, help="where the models are made; the system's temporary folder unless given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _made(place: Path, parameters: float) -> dict[str, Any]:
    """Random Llamas of 8 layers; written by name, never built."""
    width = max(64, round(2048 * math.sqrt(parameters / 0.542e9) / 64) * 64)
    inner, vocabulary = width * 11 // 4, width * 125 // 8
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": 8, "num_attention_heads": width // 64, "num_key_value_heads": width // 64, "vocab_size": vocabulary,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    shapes = {"model.embed_tokens": (vocabulary, width), "lm_head": (vocabulary, width), "model.norm": (width,)}
    for layer in range(8):
        shapes |= {f"model.layers.{layer}.self_attn.{part}_proj": (width, width) for part in "qkvo"}
        shapes |= {f"model.layers.{layer}.mlp.{part}_proj": (inner, width) for part in ("gate", "up")}
        shapes |= {f"model.layers.{layer}.mlp.down_proj": (width, inner)}
        shapes |= {f"model.layers.{layer}.{norm}_layernorm": (width,) for norm in ("input", "post_attention")}
    specs = {f"{name}.weight": Spec(torch.bfloat16, shape) for name, shape in shapes.items()}
    for number, model in enumerate(MODELS):
        with Writer(place / model, specs, durable=False) as writer:
            for name, spec in specs.items():
                writer.put(name, _random(spec, name, number))
            writer.carry([], {"config.json": json.dumps(config)})
            writer.finish()
    base = Checkpoint.open(place / "base")
    return {"parameters": base.nbytes // 2, "moved_gb": base.nbytes * 4 / 1e9, "largest_mb": max(s.nbytes for s in specs.values()) / 1e6}


def _random(spec: Spec, name: str, number: int) -> torch.Tensor:
    def drawn(seed: int) -> torch.Tensor:
        return torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed + sum(name.encode()) * 31 + len(name)))

    return drawn(0) if number == 0 else drawn(0).add_(drawn(number), alpha=SPREAD)


def _copied(place: Path, threads: int) -> float:
    """GB/s, read and written, of copying the base."""
    base = Checkpoint.open(place / "base")
    specs = {name: Spec(entry.dtype, entry.shape) for name, entry in base.entries.items()}
    with Writer(place / "copy.safetensors", specs, durable=False) as writer, ThreadPoolExecutor(threads) as pool:
        writer.view(next(iter(specs)))  # maps the file
        begun = time.perf_counter()
        list(pool.map(lambda name: writer.view(name).copy_(base[name]), specs))
        seconds = time.perf_counter() - begun
    return 2 * base.nbytes / seconds / 1e9


def _rows(place: Path, method: str, options: argparse.Namespace, facts: dict[str, Any]) -> list[dict[str, Any]]:
    config = place / f"{method}.yaml"
    config.write_text(yaml.safe_dump(_config(place, method)))
    child = [sys.executable, __file__, "--child", str(config), "--threads", str(options.threads)]
    rows = []
    for _ in range(REPEATS):  # the first may still have to compile
        said, row = _measured(child)
        rows.append(row | {"method": method, "who": "asrlife", **json.loads(said)})
    best = min(rows, key=lambda row: row["cpu_s"])
    found = [best | {"gb_s": facts["moved_gb"] / best["seconds"]}]
    if options.mergekit:
        out = place / f"{method}-mergekit"
        command = [str(options.mergekit / "bin" / "mergekit-yaml"), str(config), str(out), "--no-copy-tokenizer"]
        found.append(_measured([*command, "--num-threads", str(options.threads)])[1] | {"method": method, "who": "mergekit"})
        subprocess.run(["rm", "-r", str(out)], check=True)
    return found


def _config(place: Path, method: str) -> dict[str, Any]:
    models = [{"model": str(place / model), "parameters": METHODS[method]} for model in MODELS[1:]]
    base = {} if method == "linear" else {"base_model": str(place / "base")}
    return {"merge_method": method, "models": models, "dtype": "bfloat16", **base}


def _merged(config: Path, options: argparse.Namespace) -> dict[str, float]:
    """A merge in this process: its seconds, kernels loaded."""
    from asrlife.methods.merge import fused, run
    from asrlife.methods.merge.config import read
    from asrlife.methods.merge.plan import plan

    torch.set_num_threads(options.threads)
    fused.available()
    wanted = read(config)
    with tempfile.TemporaryDirectory(dir=config.parent) as folder:
        begun = time.perf_counter()
        found = plan(wanted, run.opened(wanted))
        run.run(found, Path(folder) / "out", threads=options.threads, check=False, fingerprints=False, durable=False)
        return {"seconds": time.perf_counter() - begun}


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
