"""The options of asrlife merge that choose settings by measuring, and what is printed of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrlife.cli import console

if TYPE_CHECKING:
    from asrlife.evaluate.search import Found
    from asrlife.methods.merge.config import Search


@dataclass(frozen=True)
class Asked:
    """What the command line says of a search."""

    parameters: tuple[str, ...]
    data: Path | None
    split: str | None
    limit: int | None
    metric: str | None
    probes: int | None
    off: bool = False

    def over(self, known: Search | None) -> Search | None:
        """The search of a file with what the command line says instead; None for none at all. InputError where it is half asked for."""
        from asrlife.errors import InputError
        from asrlife.methods.merge.config import Search, checked

        options = {
            "data": self.data and str(self.data),
            "split": self.split,
            "limit": self.limit,
            "metric": self.metric,
            "probes": self.probes,
        }
        given = {key: value for key, value in options.items() if value is not None}
        parameters = {"parameters": limits(self.parameters)} if self.parameters else {}
        if self.off:
            if given or self.parameters:
                raise InputError("--no-search makes no search: leave it out, or --search and its options")
            return None
        if known is None and not self.parameters:
            for key in given:
                raise InputError(f"--{key} goes with --search NAME=LOW:HIGH, or with the key search of CONFIG.yaml")
            return None
        if known is None and self.data is None:
            raise InputError("--search needs --data: a JSONL manifest with a dev split, or text for a language model")
        before: dict[str, Any] = {} if known is None else known.model_dump(exclude_unset=True)
        return checked(Search, before | given | parameters, "search")


def limits(texts: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value by name of NAME=LOW:HIGH texts."""
    from asrlife.errors import InputError

    found = {}
    for text in texts:
        name, _, span = text.rpartition("=")
        low, _, high = span.partition(":")
        try:
            found[name] = (float(low), float(high))
        except ValueError:
            raise InputError(f"--search {text!r}: write NAME=LOW:HIGH, as in s=0:1.2") from None
        if not name:
            raise InputError(f"--search {text!r} names nothing: write NAME=LOW:HIGH, as in s=0:1.2")
    return found


def told(found: Found) -> dict[str, Any]:
    """What the card says of a search."""
    return {"search": found.to_json()}


def show(found: Found) -> None:
    """The table of probes, and what it comes to."""
    from asrlife.evaluate.report import show_table

    for problem in found.problems:
        console.warn(problem)
    show_table(found.table(), console.out())
    seconds = sum(probe.seconds for probe in found.probes) / len(found.probes)
    share = found.to_json()["merging_share"]
    print(
        f"{found.measured} probes measured, {len(found.probes) - found.measured} from before; {seconds:.2f} s a probe, {share:.1%} merging"
    )
    print(found.conclusion)
    if found.comparisons:
        unit, times = ("points of WER", 100) if found.metric == "wer" else ("nats a token", 1)
        for c in found.comparisons:
            difference, low, high = (f"{times * value:+.3g}" for value in (c.difference, c.low, c.high))
            print(f"  to the {c.against}: {difference} {unit}, 95 % interval {low} to {high}: {c.verdict}")
