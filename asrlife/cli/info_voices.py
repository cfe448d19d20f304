"""asrlife info voices."""

from __future__ import annotations

from typing import Any

from asrlife.cli import console


def voices() -> list[dict[str, Any]]:
    """Every engine: what it is, why it cannot speak here (empty where it can), whether rate and pitch reach it, and its voices."""
    from asrlife.audio.engines import variants
    from asrlife.models.speaking import ALL_ENGINES

    found = []
    for name, engine in ALL_ENGINES.items():
        row: dict[str, Any] = {"engine": name, "about": engine.about, "missing": engine.missing(), "prosody": engine.prosody}
        found.append({**row, "voices": list(engine.names())} | ({"variants": list(variants())} if name == "espeak" else {}))
    return found


def tell_voices(as_json: bool) -> None:
    """Print them, as a table or JSON."""
    with console.results_only():
        found = voices()
    if as_json:
        console.emit({"engines": found})
        return
    from rich.text import Text

    rows = []
    for row in found:
        text = Text(f"{row['about']}\n") + Text(f"not here: {row['missing']}" if row["missing"] else " ".join(row["voices"]), "dim")
        rows.append((Text(row["engine"], "bold"), text))
        if "variants" in row:
            rows.append((Text("  +VARIANT"), Text(" ".join(row["variants"]), "dim")))
    console.catalogue(rows)
