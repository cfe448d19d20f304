"""Which learning rate and scope an adaptation method wants on a model: word error rates over a grid, on a development split.

    python benchmarks/tuning/settings.py MANIFEST --split dev --noise FILE --snr 5
    python benchmarks/tuning/settings.py MANIFEST --split dev --noise FILE --snr 5 --method dsuta --lr 2e-4 1e-3 --limit 30

The last column is the same grid on clean speech: a setting that ruins it is not worth its gain. Never run this on a test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from asrlife.data.condition import Condition
from asrlife.data.corpus import Corpus
from asrlife.errors import InputError
from asrlife.evaluate.run import evaluate
from asrlife.methods.online import make
from asrlife.models.load import load


def main() -> None:
    """Print one line of JSON for each setting, best last."""
    options = _options()
    if options.split == "test":
        raise InputError("settings are chosen on a dev split, never on test")
    torch.set_num_threads(1)
    model = load(options.model)
    corpus = Corpus.read(options.manifest).split(options.split).limit(options.limit)
    grid = {f"{lr} {scope}": make(options.method, {"lr": lr, "scope": scope}, model) for scope in options.scope for lr in options.lr}
    methods = {"none": make("none", {}, model), **grid}
    rows = {name: {"setting": name} for name in methods}
    for title, condition in {"noisy": Condition(options.noise, options.snr, 1), "clean": Condition(None, None, 1)}.items():
        for run in evaluate(model, corpus, methods, condition, progress=sys.stderr.isatty()).to_json()["runs"]:
            rows[run["adapt"]] |= {title: round(run["wer"], 4), f"{title}_cer": round(run["cer"], 4)}
    for row in sorted(rows.values(), key=lambda row: -float(row["noisy"])):
        print(json.dumps({"model": options.model, "method": options.method, **row}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--noise", default="babble")
    parser.add_argument("--snr", type=float, default=5.0)
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--method", default="suta")
    parser.add_argument("--scope", nargs="+", default=["norms", "norms+features"])
    parser.add_argument("--lr", nargs="+", default=["2e-4", "5e-4", "1e-3", "2e-3"])
    parser.add_argument("--limit", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
