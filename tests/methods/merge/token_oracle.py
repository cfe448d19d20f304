"""Makes token_oracle.json: the rows that mergekit 0.1.5, which must be installed where this runs, gives tokens in small merges.

PYTHONPATH=. python tests/methods/merge/token_oracle.py
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.methods.merge.spelt import CASES, SPELLINGS, build, read

HERE = Path(__file__).with_name("token_oracle.json")


def placed(value: Any, place: Path) -> Any:
    """The same with folders in place of names of models."""
    if isinstance(value, dict):
        return {
            key: placed(entry, place) if key in {"model", "base_model", "source"} or not isinstance(entry, str) else entry
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [placed(entry, place) for entry in value]
    return str(place / value) if value in SPELLINGS else value


def main() -> None:
    """Merge every case with mergekit."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    found = {}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        build(place)
        for name, case in CASES.items():
            out = place / name.replace(" ", "-")
            run_merge(MergeConfiguration.model_validate(placed(case, place)), str(out), MergeOptions(low_cpu_memory=True))
            found[name] = read(out)
    HERE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
