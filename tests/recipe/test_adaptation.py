from __future__ import annotations

import pytest

from asrlife.errors import InputError
from asrlife.recipe.adaptation import methods, settings_of


def test_a_change_reaches_every_method_that_has_the_key() -> None:
    settings = settings_of(["none", "suta", "dsuta"], ["lr=0.5", "steps=2", "buffer=3"])
    assert settings == {"none": {}, "suta": {"lr": "0.5", "steps": "2"}, "dsuta": {"lr": "0.5", "buffer": "3"}}


def test_a_named_change_reaches_one_and_the_last_one_counts() -> None:
    assert settings_of(["suta", "dsuta"], ["lr=0.5", "suta.lr=0.1"]) == {"suta": {"lr": "0.1"}, "dsuta": {"lr": "0.5"}}


def test_methods_keep_their_order_and_have_their_settings() -> None:
    made = methods(["dsuta", "none", "suta"], ["suta.steps=3"])
    assert list(made) == ["dsuta", "none", "suta"]
    assert made["suta"].steps == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (["suta"], "stepz=1", "unknown key 'stepz'; did you mean 'steps'"),
        (["suta", "dsuta"], "dsuta.steps=1", "unknown key 'steps'; did you mean 'fast_steps'"),
        (["suta", "dsuta"], "suto.lr=1", "'suto' is not among the methods of this run; did you mean 'suta'"),
        (["none"], "lr=1", "none has no settings"),
        (["suta"], "=1", "should be key=value"),
        (["sota"], "lr=1", "unknown adaptation 'sota'; did you mean 'suta'"),
        ([], "lr=1", "no adaptation method given"),
    ],
)
def test_a_wrong_change_names_what_was_meant(names: list[str], change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_of(names, [change])
