"""asrlife merge."""

from __future__ import annotations

from pathlib import Path

from asrlife.cli import merge_options as takes
from asrlife.cli.merge_file import merge_file
from asrlife.cli.merge_search import Asked
from asrlife.cli.merge_sum import merge_sum
from asrlife.cli.operands import Dtype, Layers, Match, Roles, Without
from asrlife.cli.options import AsJson

HELP = takes.HELP


def merge(
    names: takes.Names = None,
    expr: takes.Expr = "",
    out: takes.Out = None,
    search: takes.Search = None,
    no_search: takes.NoSearch = False,
    data: takes.Data = None,
    split: takes.Split = None,
    limit: takes.Limit = None,
    metric: takes.Metric = None,
    probes: takes.Probes = None,
    dtype: Dtype = None,
    accumulate: takes.Accumulate = "float32",
    match: Match = "",
    role: Roles = None,
    without_role: Without = None,
    layers: Layers = None,
    shard_size: takes.ShardSize = 5.0,
    threads: takes.Threads = None,
    check: takes.Check = True,
    fingerprints: takes.Fingerprints = True,
    as_json: AsJson = False,
) -> None:
    """Merge models by a method, or by an expression; see `asrlife.cli.merge_options.HELP`."""
    from asrlife.errors import InputError

    asked = Asked(tuple(search or ()), data, split, limit, metric, probes, no_search)
    of_file = {"threads": threads, "check": check, "fingerprints": fingerprints}
    of_sum: dict[str, object] = {
        "dtype": dtype,
        "accumulate": accumulate,
        "match": match,
        "role": role,
        "without-role": without_role,
        "layers": layers,
    }
    size = int(shard_size * 1e9)
    if not expr and out is not None and names and len(names) == 1:
        _refuse(of_sum)
        return merge_file(Path(names[0]), out, size, of_file, asked, as_json)
    if not expr or out is None:
        raise InputError("give --expr, as in --expr 'a + 0.4 * (b - c)', or CONFIG.yaml, and --out")
    if (threads, fingerprints) != (None, True):
        raise InputError("--threads and --no-fingerprints go with CONFIG.yaml, not with --expr")
    merge_sum(expr, names or [], out, size, of_sum, check, asked, as_json)


def _refuse(options: dict[str, object]) -> None:
    from asrlife.errors import InputError

    for name, value in options.items():
        if value and (name, value) != ("accumulate", "float32"):
            raise InputError(f"--{name} goes with --expr: CONFIG.yaml has dtype, accumulate_dtype and select of its own")
