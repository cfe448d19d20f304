"""Cards that lie beside tensors: a JSON file whose hash the tensors' own file holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from asrlife.delta.shards import Shard
from asrlife.errors import InputError


def card_of(shard: Shard, path: Path) -> dict[str, Any]:
    """The card NAME.json of the file NAME.safetensors; InputError where it is missing, unreadable, or not the one it was written with."""
    beside = path.with_suffix(".json")
    try:
        text = beside.read_text(encoding="utf-8")
        card = json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"the card {beside} does not read ({error}): keep the two files together") from error
    if hashlib.sha256(text.encode()).hexdigest() != shard.metadata.get("card") or not isinstance(card, dict):
        raise InputError(f"{beside} is not the card that {path} was written with: copy both files again")
    return card
