"""Model editing beside what is published: the solves against dense ones, and the search for values against a loop over edits.

    python benchmarks/edit.py                              MEMIT and AlphaEdit at d = 3072; values on embedded:lm, one and two threads
    python benchmarks/edit.py --model FOLDER --edits 32    values on another causal language model
    python benchmarks/edit.py --only solves --json

Solves are in float64 on random keys, with as many outputs as a feed-forward of that width has (d / 4), each result written out as a dense
change. "factor" is Cholesky's of the covariance, or none for AlphaEdit, once for all edits of a layer; "dense" is the solve of size d^3 of
the published code (arXiv 2210.07229, 2410.02355), with the projector and the products of earlier keys given. "apart" is the relative
difference of the two results.

Values are searched at the layer and with the contexts that ROME has by default, all steps of every edit. "published" takes one edit after
the other through the whole network, every token, every score, as the published code does; "alone" is ours with one edit at a time,
"together" ours with all. Rates are edits a CPU-second; wall-clock rates behind them feel whatever else runs. Medians of --repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import make
from asrlife.data.world.forms import forward
from asrlife.methods.edit import algebra
from asrlife.methods.edit.edit import bench
from asrlife.methods.edit.editors import Bench, Rome
from asrlife.methods.edit.partial import adding, listening
from asrlife.methods.edit.rows import Rows, rows
from asrlife.methods.edit.values import ESSENCE, Search, additions
from asrlife.models.text import TextModel, load_text

STORIES = Path(__file__).resolve().parents[2] / "shared" / "data" / "lm-stories260k"
MEMIT, RIDGE = 15.0, 10.0
SEARCH = Search(enough=0.0)  # nobody is done early: both sides take the same steps


def main() -> None:
    """Measure, and print a row for each."""
    options = _options()
    facts = {"load": os.getloadavg()[0], "cores": os.cpu_count(), "threads of solves": 1}
    solves = [_memit(options), _alphaedit(options)] if options.only != "values" else []
    models = options.model or ["embedded:lm", *([str(STORIES)] if STORIES.is_dir() else [])]
    values = [row for name in models for row in _values(name, options)] if options.only != "solves" else []
    facts["load after"] = os.getloadavg()[0]
    if options.json:
        return print(json.dumps({"facts": facts, "solves": solves, "values": values}, indent=2))
    print(", ".join(f"{key} {value:.3g}" for key, value in facts.items()))
    if solves:
        print(f"{'solve':10} {'d':>5} {'keys':>5} {'r':>5} {'CPU-s':>7} {'factor':>7} {'dense':>7} {'times':>6} {'apart':>8}")
    for row in solves:
        print(
            f"{row['solve']:10} {row['d']:5} {row['keys']:5} {row['rank'] or '':>5} {row['cpu_s']:7.3f} {row['factor_cpu_s']:7.3f} "
            f"{row['dense_cpu_s']:7.3f} {row['times']:6.1f} {row['apart']:8.1e}"
        )
    if values:
        print(f"{'values on':14} {'threads':>7} {'edits':>5}   {'published':>9} {'alone':>7} {'together':>8} {'times':>6} {'apart':>8}")
    for row in values:
        for unit in ("cpu_s", "wall_s"):
            rates = [row[f"{who}_per_{unit}"] for who in ("published", "alone", "together")]
            print(
                f"{row['model']:14} {row['threads']:7} {row['edits']:5}   {rates[0]:9.2f} {rates[1]:7.2f} {rates[2]:8.2f} "
                f"{rates[2] / rates[0]:6.1f} {row['apart']:8.1e}  a {'CPU-second' if unit == 'cpu_s' else 'second of wall clock'}"
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("solves", "values"))
    parser.add_argument("--width", type=int, default=3072, help="d, the size of a key")
    parser.add_argument("--keys", type=int, default=100, help="edits of a solve")
    parser.add_argument("--earlier", type=int, default=300, help="keys that AlphaEdit holds beside them")
    parser.add_argument("--unused", type=float, default=0.9, help="share of the directions that AlphaEdit may use: r / d")
    parser.add_argument("--model", nargs="+", help="causal language models; embedded:lm unless given")
    parser.add_argument("--edits", type=int, default=32, help="together in the search for values")
    parser.add_argument("--loop", type=int, default=3, help="how many of them go one by one, whose rate is the same for any number")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the search for values")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """What the last run gives, and the medians of its CPU-seconds and its seconds."""
    used, took, found = [], [], None
    for _ in range(repeats):
        begun, wall = time.process_time(), time.perf_counter()
        found = run()
        used.append(time.process_time() - begun)
        took.append(time.perf_counter() - wall)
    return found, statistics.median(used), statistics.median(took)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _memit(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    size, count = options.width, options.keys
    keys, residuals, spread = _normal(0, size, count), _normal(1, size // 4, count), _normal(2, size, 2 * size)
    matrix = spread @ spread.T / (2 * size)
    known, factor, _ = _timed(lambda: _factored(matrix), options.repeats)
    found, ours, _ = _timed(lambda: algebra.memit(residuals, keys, known, MEMIT).dense(), options.repeats)
    dense, theirs, _ = _timed(lambda: residuals @ torch.linalg.solve(MEMIT * matrix + keys @ keys.T, keys).T, options.repeats)
    return _solve("memit", size, count, None, ours, factor, theirs, _apart(found, dense))


def _factored(matrix: Tensor) -> algebra.Covariance:
    known = algebra.Covariance(matrix)
    assert known.factor.shape == matrix.shape
    return known


def _alphaedit(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    size, count, rank = options.width, options.keys, round(options.width * options.unused)
    keys, earlier, residuals = _normal(0, size, count), _normal(3, size, options.earlier), _normal(1, size // 4, count)
    unused = torch.linalg.qr(_normal(2, size, rank))[0]
    projector, held = unused @ unused.T, earlier @ earlier.T
    found, ours, _ = _timed(lambda: algebra.alphaedit(residuals, keys, unused, earlier, RIDGE).dense(), options.repeats)

    def published() -> Tensor:
        inner = projector @ (keys @ keys.T + held) + RIDGE * torch.eye(size, dtype=torch.float64)
        return torch.linalg.solve(inner, projector @ keys @ residuals.T).T

    dense, theirs, _ = _timed(published, options.repeats)
    return _solve("alphaedit", size, count + options.earlier, rank, ours, 0.0, theirs, _apart(found, dense))


def _solve(name: str, size: int, keys: int, rank: int | None, ours: float, factor: float, dense: float, apart: float) -> dict[str, Any]:
    times = {"cpu_s": ours, "factor_cpu_s": factor, "dense_cpu_s": dense, "times": dense / ours}
    return {"solve": name, "d": size, "keys": keys, "rank": rank, **times, "apart": apart}


def _apart(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


def _values(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    model = load_text(name)
    some = _requests(name, options.edits)
    at = bench(model, Rome(), seed=1)
    loop = some[: options.loop]
    ways: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "published": (len(loop), lambda: torch.cat([_published(model, one, at) for one in loop])),
        "alone": (len(loop), lambda: torch.cat([_ours(model, [one], at) for one in loop])),
        "together": (len(some), lambda: _ours(model, some, at)),
    }
    told = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        row: dict[str, Any] = {"model": Path(name).name, "threads": threads, "edits": len(some), "contexts": len(at.contexts)}
        made = {}
        for who, (count, way) in ways.items():
            made[who], used, took = _timed(way, options.repeats)
            row |= {f"{who}_per_cpu_s": count / used, f"{who}_per_wall_s": count / took}
        told.append(row | {"apart": _apart(made["together"][: len(loop)], made["published"])})
    return told


def _requests(name: str, count: int) -> list[EditRequest]:
    """Facts of the closed world for the model that knows them; for others a story with another name in it."""
    if name == "embedded:lm":
        world = make(0)
        facts = [replace(fact, object=world.target(fact)) for fact in world.split("edit_dev")[:count]]
        return [EditRequest(f.subject, next(q.prompt for q in forward(f) if f.subject in q.prompt), f.object) for f in facts]
    heroes, names = ("girl", "boy", "dog", "cat", "bird", "bear", "bunny", "fish"), ("Tom", "Sue", "Max", "Ben", "Anna", "Jack", "Mia")
    kinds = ("little", "big", "happy", "brave", "old", "small", "young", "kind")
    whole = [(f"{kind} {hero}", names[(n + 3 * k) % len(names)]) for k, kind in enumerate(kinds) for n, hero in enumerate(heroes)]
    return [EditRequest(subject, f"Once upon a time, there was a {subject} named", target) for subject, target in whole[:count]]


def _ours(model: TextModel, some: Sequence[EditRequest], at: Bench) -> Tensor:
    return additions(model, some, at.contexts, at.sites[-1], SEARCH).additions


def _published(model: TextModel, one: EditRequest, at: Bench) -> Tensor:
    """The search of arXiv 2202.05262, eq. 4, as its code has it: one edit, and in each step all of the network."""
    asked = rows(
        model, [*((0, f"{c}{one.prompt}", one.subject, one.target) for c in at.contexts), (0, ESSENCE.format(one.subject), one.subject, "")]
    )
    every, module = torch.arange(len(asked)), at.sites[-1].module
    made: list[Tensor] = []
    with torch.no_grad(), listening(module, lambda _, out: made.append(out[0, asked.places[0]])):
        known = _scores(model.module, asked)[-1, int(asked.lengths[-1]) - 1]
    size = made[0].norm()
    moving = torch.zeros_like(made[0], requires_grad=True)
    optimiser = torch.optim.Adam([moving], SEARCH.rate)

    def added(out: Tensor) -> Tensor:
        spread = torch.zeros_like(out)
        spread[every, asked.places] = moving
        return out + spread

    flags = [(weight, weight.requires_grad) for weight in model.module.parameters()]
    model.module.requires_grad_(False)
    with adding(module, added):
        for _ in range(SEARCH.steps - 1):
            optimiser.zero_grad()
            scores = _scores(model.module, asked)
            said = [
                nn.functional.nll_loss(scores[row, first - 1 : last - 1], asked.ids[row, first:last])
                for row, (first, last) in enumerate(zip(asked.starts.tolist(), asked.lengths.tolist(), strict=True))
                if first < last
            ]
            drift = (known.exp() * (known - scores[-1, int(asked.lengths[-1]) - 1])).sum()
            length = (moving.square().sum() + 1e-12).sqrt()
            (torch.stack(said).mean() + SEARCH.divergence * drift + SEARCH.decay * length / size**2).backward()
            optimiser.step()
            with torch.no_grad():
                moving.mul_((SEARCH.clamp * size / moving.norm().clamp_min(1e-12)).clamp_max(1.0))
    for weight, flag in flags:
        weight.requires_grad_(flag)
    return moving.detach()[None]


def _scores(network: Any, asked: Rows) -> Tensor:
    scores: Tensor = network(input_ids=asked.ids, attention_mask=asked.mask, use_cache=False).logits.float().log_softmax(-1)
    return scores


if __name__ == "__main__":
    main()
