"""What is taken up again is what a method could have made; everything else is an InputError and nothing but that."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.methods.online import METHODS, Method
from asrlife.methods.online.restore import drift, fit, restored
from asrlife.methods.online.state import State

START = State("base", ("a", "b"), {"weights": torch.zeros(6), "first": torch.zeros(6)}, {"count": 0, "watch": {"mean": None, "gaps": ()}})
GOOD = START.updated({"weights": torch.arange(6.0), "domain": torch.ones(6)}, count=3, watch={"mean": 0.5, "gaps": [0.25]})
BLOB = GOOD.to_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_own_states_up_again(name: str, quick: Callable[..., Method], ctc: Any, stream: Any) -> None:
    method = quick(name, ctc)
    state = start = method.start(ctc)
    for utterance in stream(5):
        _, state, _ = method.step(ctc, state, utterance)
        again = restored(state.to_bytes(), start)
        assert again.digest() == state.digest()
        assert drift(again, start) == drift(state, start) and math.isfinite(drift(state, start))
    assert drift(start, start) == 0


@pytest.mark.parametrize(("bad", "words"), [
    (replace(GOOD, names=("a",)), "shape: the state tunes 1 other parameters"),
    (GOOD.updated({"weights": None}), "shape: 'weights' is missing"),
    (GOOD.updated({"weights": torch.zeros(7)}), r"shape: 'weights' is float32 \(7,\); the method's is float32 \(6,\)"),
    (GOOD.updated({"weights": torch.zeros(6, dtype=torch.float64)}), "shape: 'weights' is float64"),
    (GOOD.updated({"slope": torch.zeros(5)}), "shape: 'slope'"),
    (GOOD.updated({"weights": torch.full((6,), torch.nan)}), "NaN: 'weights'"),
    (GOOD.updated({"domain": torch.full((6,), torch.inf)}), "NaN: 'domain'"),
    (GOOD.updated(count="three"), "record: 'count' is 'three'"),
    (GOOD.updated(count=True), "record: 'count'"),
    (GOOD.updated(watch={"mean": 0.5}), "record: 'watch'"),
    (replace(GOOD, record={"count": 3}), "record: 'watch' is 'missing'"),
])  # fmt: skip
def test_what_does_not_fit_is_named(bad: State, words: str) -> None:
    with pytest.raises(InputError, match=words):
        restored(bad.to_bytes(), START)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_state_comes_to_the_device_of_the_model() -> None:
    there = START.updated({name: vector.cuda() for name, vector in START.vectors.items()})
    state = restored(BLOB, there)
    assert all(vector.is_cuda for vector in state.vectors.values()) and state.digest() == GOOD.digest()
    assert drift(state, there) == pytest.approx(55**0.5)


def test_drift_is_the_distance_of_the_weights() -> None:
    assert drift(GOOD, START) == pytest.approx(55**0.5)
    assert drift(State("base"), State("base")) == 0


def read_or_refused(data: bytes) -> bool:
    """Whether it is refused with words, or can be read, fits the method and is the same when written and read again."""
    try:
        state = restored(data, START)
    except InputError as error:
        return bool(str(error))
    again = State.from_bytes(state.to_bytes(), "base")
    fit(again, START)
    return again.digest() == state.digest()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BLOB) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(BLOB)
    for place, value in changes:
        data[place] = value
    assert read_or_refused(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(BLOB)), st.binary(max_size=64), st.integers(0, len(BLOB)))
def test_cut_and_spliced_bytes_are_read_or_refused(cut: int, more: bytes, start: int) -> None:
    assert read_or_refused(BLOB[:cut] + more + BLOB[start:])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HEADER = json.loads(BLOB[8 : 8 + int.from_bytes(BLOB[:8], "little")])


def assembled(header: Any, tail: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tail


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*HEADER["weights"], "name", "note"]), json_values, st.booleans())
def test_made_up_headers_are_read_or_refused(part: str, value: Any, whole: bool) -> None:
    header = json.loads(json.dumps(HEADER))
    if part == "note":
        header["__metadata__"] = value if whole else {"state": json.dumps(value)}
    elif part == "name":
        header["weights"] = value
    else:
        header["weights"][part] = value
    assert read_or_refused(assembled(header, BLOB[8 + int.from_bytes(BLOB[:8], "little") :]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["format", "base", "names", "record"]), json_values)
def test_made_up_notes_are_read_or_refused(part: str, value: Any) -> None:
    note = json.loads(HEADER["__metadata__"]["state"])
    note[part] = value
    header = {**HEADER, "__metadata__": {"state": json.dumps(note)}}
    assert read_or_refused(assembled(header, BLOB[8 + int.from_bytes(BLOB[:8], "little") :]))


@pytest.mark.parametrize("record", ['{"count": NaN}', '{"count": 1e999}', "[" * 100_000, '{"count": ' + "9" * 5000 + "}", "3", "null"])
def test_records_that_json_readers_take_and_nobody_can_write(record: str) -> None:
    note = '{"format": 2, "base": "base", "names": ["a", "b"], "record": ' + record + "}"
    with pytest.raises(InputError):
        restored(assembled({**HEADER, "__metadata__": {"state": note}}, BLOB[8 + int.from_bytes(BLOB[:8], "little") :]), START)
