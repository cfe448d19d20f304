"""What a long job has reached, in a small file that a second run of the same job goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrlife.files import atomic


@dataclass(frozen=True)
class Kept:
    """A JSON file at `path` that belongs to the job of which `stamp` says all that its result depends on."""

    path: Path
    stamp: str

    def read(self) -> Mapping[str, Any] | None:
        """What was written last; None where nothing was, or by another job, or where it does not read."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return found["state"] if found["job"] == self._job else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, state: Mapping[str, Any]) -> None:
        """Put `state` in the place of what is there."""
        with atomic(self.path, "w") as file:
            json.dump({"job": self._job, "state": dict(state)}, file)

    def drop(self) -> None:
        """The job is done."""
        self.path.unlink(missing_ok=True)

    @property
    def _job(self) -> str:
        return hashlib.sha256(self.stamp.encode()).hexdigest()
