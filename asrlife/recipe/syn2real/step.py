"""The step "syn2real": leave a domain out, tune on its synthetic speech, add the vector of the others, test on its real speech."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from asrlife.files import atomic
from asrlife.recipe.registry import Place, Step
from asrlife.recipe.syn2real.domains import Domain, Heard, Voices, heard, said
from asrlife.recipe.tuning import settings_of

if TYPE_CHECKING:
    from asrlife.evaluate.leave_one_out import Board, Trial

Protocol = Literal["strict", "published"]
ROWS = ("base", "source", "synthetic", "+ one", "+ mean", "+ nearest", "topline")
DIFFERENCES = (
    ("base", "synthetic"),
    ("synthetic", "+ one"),
    ("synthetic", "+ mean"),
    ("synthetic", "+ nearest"),
    ("base", "+ one"),
    ("source", "+ one"),
)


class SynToReal(Step):
    """Each of `domains` is left out in turn: `model` is tuned on its synthetic speech and moved by `scale` times (real - synthetic) of the
    others (arXiv 2406.02925); `scales` are tried on development speech, as each of `protocols` has it.

    Writes out:FOLDER/PROTOCOL.png, results.json, vector.safetensors (for domains of one's own: `asrlife domain --syn2real`) and, for each
    seed, seed-N.json and its deltas; what is there is kept.
    """

    kind: Literal["syn2real"]
    domains: Mapping[str, Domain] = Field(min_length=3)
    model: str = "embedded:ctc-tts"
    protocols: tuple[Protocol, ...] = ("strict",)
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    scales: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0), min_length=1)
    read: Voices = Voices()
    tested_by: tuple[str, ...] = ("en-us+f4", "en-us+m7", "en-gb-x-rp+steph2")
    near: PositiveInt = 12
    tune: Mapping[str, Any] = {}
    folder: str = "syn2real"
    speech: str = "domains"
    title: str = "Syn-to-Real, one domain left out at a time"
    threads: PositiveInt = 1

    def run(self, place: Place) -> Mapping[str, Any]:
        """Tune, choose, test and draw."""
        import torch

        torch.set_num_threads(self.threads)
        domains = {name: heard(name, domain, self.read, place, self.speech) for name, domain in self.domains.items()}
        tests = {name: said(each, self.tested_by, self.read, place, self.speech) for name, each in domains.items()}
        boards, chosen = self._boards(domains, tests, place)
        facts = {"model": self.model, "title": self.title, "seeds": list(self.seeds), "scales": list(self.scales), "chosen": chosen}
        facts |= {"domains": {name: each.told() for name, each in domains.items()}, "tune": dict(self.tune)}
        found = written(boards, place.out / self.folder, self.title, facts)
        if "strict" in self.protocols:
            found["vector"] = str(self._vector(domains, chosen[str(self.seeds[0])], place))
        return found

    def _vector(self, domains: Mapping[str, Heard], chosen: Mapping[str, Any], place: Place) -> Path:
        """The mean of one vector of each domain, under the first seed, in half precision; its card has the scale to add it by."""
        from asrlife.delta import file
        from asrlife.models.load import load
        from asrlife.recipe.syn2real.protocol import usual
        from asrlife.recipe.syn2real.workshop import Workshop, packed

        model, folder, seed = load(self._named(place)), place.out / self.folder, self.seeds[0]
        settings = settings_of({**self.tune, "seed": seed})
        workshop = Workshop(model, domains, settings, folder / f"seed-{seed}", place.bar, model.fingerprint())
        note = {"of": model.name, "seed": seed, "scale": usual(chosen), "domains": {name: each.told() for name, each in domains.items()}}
        path = folder / "vector.safetensors"
        file.save(packed([workshop.vector([name]) for name in domains], note), path)
        return path

    def _boards(self, domains: Mapping[str, Heard], tests: Mapping[str, Any], place: Place) -> tuple[dict[str, Board], dict[str, Any]]:
        from asrlife.evaluate.leave_one_out import Board

        trials: dict[str, list[Trial]] = {name: [] for name in self.protocols}
        chosen: dict[str, Any] = {}
        for seed in self.seeds:
            found = self._seed(seed, domains, tests, place)
            chosen[str(seed)] = found["chosen"]
            for name in self.protocols:
                trials[name] += trials_of(found["trials"][name])
        return {name: Board(tuple(each)) for name, each in trials.items()}, chosen

    def _seed(self, seed: int, domains: Mapping[str, Heard], tests: Mapping[str, Any], place: Place) -> dict[str, Any]:
        """The trials of one seed as JSON, those of an earlier run where it had the same settings and sounds."""
        from asrlife.models.load import load

        model, folder = load(self._named(place)), place.out / self.folder
        path, stamp = folder / f"seed-{seed}.json", self._stamp(seed, model.fingerprint(), domains, tests)
        if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["stamp"] == stamp:
            return dict(kept)
        found = self._measured(seed, model, domains, tests, folder / f"seed-{seed}", place)
        with atomic(path, "w") as file:
            json.dump({"stamp": stamp, **found}, file, indent=1)
        return dict(json.loads(json.dumps(found)))

    def _named(self, place: Place) -> str:
        """The model's name, or the folder that an earlier step made."""
        return str(place.path(self.model)) if self.model.startswith("out:") else self.model

    def _measured(
        self, seed: int, model: Any, domains: Mapping[str, Heard], tests: Mapping[str, Any], folder: Path, place: Place
    ) -> dict[str, Any]:  # fmt: skip
        from asrlife.recipe.syn2real.protocol import PROTOCOLS, Experiment
        from asrlife.recipe.syn2real.workshop import Workshop, hearing

        settings = settings_of({**self.tune, "seed": seed})
        workshop = Workshop(model, domains, settings, folder, place.bar, model.fingerprint())
        trials: dict[str, Any] = {}
        experiment = Experiment(workshop, hearing(model), seed, self.scales, self.near, tests)
        for name in self.protocols:
            protocol = PROTOCOLS[name](experiment)
            with place.bar(f"seed {seed}, {name}", len(domains)) as advance:
                trials[name] = []
                for target in domains:
                    trials[name] += [asdict(trial) for trial in protocol.trials(target)]
                    advance()
        return {"trials": trials, "chosen": experiment.chosen}

    def _stamp(self, seed: int, base: str, domains: Mapping[str, Heard], tests: Mapping[str, Any]) -> str:
        told = {"settings": self.model_dump(mode="json", exclude={"seeds", "title", "threads"}), "seed": seed, "base": base}
        told |= {
            "domains": {name: each.told() for name, each in domains.items()},
            "tests": {n: [u.id for u in t] for n, t in tests.items()},
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def trials_of(rows: list[dict[str, Any]]) -> list[Trial]:
    """Trials as they were kept."""
    from asrlife.evaluate.leave_one_out import Trial

    return [Trial(**{**row, "errors": tuple(row["errors"]), "words": tuple(row["words"])}) for row in rows]


def written(boards: Mapping[str, Board], folder: Path, title: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write FOLDER/results.json and a picture for each protocol; what the step returns."""
    from asrlife.evaluate.bars import bars

    folder.mkdir(parents=True, exist_ok=True)
    found = {name: board.to_json(DIFFERENCES) for name, board in boards.items()}
    with atomic(folder / "results.json", "w") as file:
        json.dump({**facts, "protocols": found}, file, indent=1, ensure_ascii=False)
    pictures = {name: str(bars(board, folder / f"{name}.png", f"{title} ({name})")) for name, board in boards.items()}
    return {"json": str(folder / "results.json"), "pictures": pictures, "protocols": {name: lines(board) for name, board in boards.items()}}


def lines(board: Board) -> dict[str, str]:
    """Each row for people: the mean over domains on each axis."""
    from asrlife.evaluate.report import AXES

    def told(row: str) -> str:
        axes = [axis for axis in AXES if row in board.rows(axis)]
        rates = ((axis, board.rate(axis, row)) for axis in axes)
        return ", ".join(f"{axis} {100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" for axis, rate in rates)

    return {row: told(row) for row in board.rows("generality")}
