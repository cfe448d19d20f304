from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.recipe.names import nearest
from asrlife.recipe.schema import Settings, merged, parse, read_yaml

TREES = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


class Oven(Settings):
    degrees: int
    name: str = "oven"


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^oven.yaml: unknown key 'degres'; did you mean 'degrees'\?$"):
        parse(Oven, {"degres": 3, "degrees": 3}, "oven.yaml")


def test_wrong_type_names_the_key_and_the_value() -> None:
    with pytest.raises(InputError, match=r"^oven.yaml: degrees: .*integer.*\(it is 'hot'\)$"):
        parse(Oven, {"degrees": "hot"}, "oven.yaml")


def test_a_misspelt_key_is_named_and_not_called_missing() -> None:
    with pytest.raises(InputError, match=r"unknown key 'degreess'; did you mean 'degrees'"):
        parse(Oven, {"degreess": 3}, "oven.yaml")


def test_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"^oven.yaml: the key 'degrees' is missing$"):
        parse(Oven, {}, "oven.yaml")


def test_nearest_lists_what_is_known_when_nothing_is_near() -> None:
    assert nearest("zzz", ["seed", "lr"]) == "known: lr, seed"


@pytest.mark.parametrize(("content", "message"), [("a: [1", "not YAML"), ("- 1", "should be a mapping"), ("", "should be a mapping")])
def test_broken_yaml_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_yaml(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="not YAML"):
        read_yaml(path)


@given(MAPPINGS, MAPPINGS)
def test_merging_keeps_every_value_of_the_second(base: dict[str, object], over: dict[str, object]) -> None:
    both = merged(base, over)
    assert set(both) == set(base) | set(over)
    assert merged(both, over) == both
    assert all(both[key] == value for key, value in over.items() if not isinstance(value, dict))
    assert merged(base, {}) == base
