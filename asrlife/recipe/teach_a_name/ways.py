"""Ways to teach a name: an edit, or plain fine-tuning, each with the settings that may be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from asrlife.recipe.schema import Settings
from asrlife.recipe.teach_a_name.cast import Trial

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.delta.delta import Delta
    from asrlife.methods.edit.speech.teach import Bench
    from asrlife.models.handle import Recogniser


class Way(Settings):
    """Settings of `asrlife.methods.edit.speech.Settings` (`edit`) or of `asrlife.methods.tune.Settings` (`tune`), and lists of values of
    some of them (`search`), every combination of which is tried on development names."""

    edit: Mapping[str, Any] | None = None
    tune: Mapping[str, Any] | None = None
    search: Mapping[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _one(self) -> Way:
        if (self.edit is None) == (self.tune is None):
            raise ValueError("give either edit: or tune:, empty braces for the defaults")
        return self

    def candidates(self) -> Iterator[dict[str, Any]]:
        """Every combination."""
        given = self.edit if self.edit is not None else self.tune
        for values in product(*self.search.values()):
            yield {**(given or {}), **dict(zip(self.search, values, strict=True))}


@dataclass(eq=False)
class School:
    """A model and the speech that edits are to leave alone; benches are made once for each place."""

    model: Recogniser
    speech: Sequence[Waveform]

    def __post_init__(self) -> None:
        self._benches: dict[Any, Bench] = {}

    def taught(self, way: Way, settings: Mapping[str, Any], trial: Trial) -> Delta:
        """The delta of one way with these settings."""
        return self._tuned(settings, trial) if way.tune is not None else self._edited(settings, trial)

    def _edited(self, told: Mapping[str, Any], trial: Trial) -> Delta:
        from asrlife.methods.edit.speech.teach import bench, settings_of, teach

        settings = settings_of(told)
        key = (settings.where, settings.layer, settings.bias, settings.shrinkage)
        if key not in self._benches:
            self._benches[key] = bench(self.model, self.speech, settings)
        return teach(self.model, trial.taught, word=trial.name, settings=settings, at=self._benches[key])

    def _tuned(self, told: Mapping[str, Any], trial: Trial) -> Delta:
        from asrlife.data.corpus import Corpus
        from asrlife.methods.tune import tune
        from asrlife.recipe.tuning import settings_of

        return tune(self.model, Corpus(trial.taught), None, settings_of({"seed": trial.seed, **told})).delta
