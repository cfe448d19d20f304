"""Expressions: what they mean, in which order they are worked out, and everything else that is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asrlife.delta.delta import Delta, Dense
from asrlife.delta.expression import LONGEST, bound, parse
from asrlife.errors import InputError

MEANINGS = {
    "a": {"a": 1.0},
    "a + 0.4 * (b - c)": {"a": 1.0, "b": 0.4, "c": -0.4},
    " (a + b) / 2 ": {"a": 0.5, "b": 0.5},
    "-a + +2 * a": {"a": 1.0},
    "c + b - a": {"c": 1.0, "b": 1.0, "a": -1.0},
    "a * 3 / 4 - b * -(1 - 0.5)": {"a": 0.75, "b": 0.5},
    "2 * (a - 2 * (b - 2 * (c)))": {"a": 2.0, "b": -4.0, "c": 8.0},
    "(1 + 2) * 1e-1 * a - a * 0": {"a": 0.1 * 3},
    "target_syn + .4*(real-syn)": {"target_syn": 1.0, "real": 0.4, "syn": -0.4},
    "a\n+ b": None,
    "(a\n+ b)": {"a": 1.0, "b": 1.0},
}


@pytest.mark.parametrize("text", [text for text, wanted in MEANINGS.items() if wanted])
def test_what_a_text_means(text: str) -> None:
    found = parse(text)
    wanted = MEANINGS[text]
    assert wanted is not None and found.names == tuple(wanted)
    assert found.coefficients == pytest.approx(wanted)


@given(st.integers(0, 10_000))
def test_the_value_is_the_linear_form(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(3, generator=generator).double() for name in "abc"}
    for text, wanted in MEANINGS.items():
        if wanted and set(wanted) <= set("abc"):
            total = torch.stack([factor * values[name] for name, factor in wanted.items()]).sum(0)
            torch.testing.assert_close(parse(text).of(values), total, rtol=0, atol=1e-13)


def test_it_is_worked_out_in_the_order_in_which_it_is_written() -> None:
    torch.manual_seed(0)
    a, b, c = (torch.randn(4096) for _ in range(3))
    values = {"a": a, "b": b, "c": c}
    assert torch.equal(parse("a + 0.4 * (b - c)").of(values), a + 0.4 * (b - c))
    assert torch.equal(parse("a + 0.4 * b - 0.4 * c").of(values), (a + 0.4 * b) - 0.4 * c)
    assert torch.equal(parse("a / 3").of(values), a * (1 / 3))
    assert torch.equal(parse("(0.1 + 0.2) * a").of(values), (0.1 + 0.2) * a)
    assert not torch.equal(parse("a + 0.4 * (b - c)").of(values), parse("a + 0.4 * b - 0.4 * c").of(values))


def test_deltas_are_worked_out_alike() -> None:
    deltas = {name: Delta("base", {"w": Dense(torch.tensor([float(number)]))}) for number, name in enumerate("abc", 1)}
    assert parse("c + b - a").of(deltas).tensors["w"].dense().item() == 4.0
    assert parse("-(a + b) / 2").of(deltas).tensors["w"].dense().item() == -1.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not read"),
        ("a +", "does not read"),
        ("a + b)", "does not read"),
        ("a\n+ b", "does not read"),
        ("a b", "does not read"),
        ("a = b", "does not read"),
        ("3 + 4", "names no model"),
        ("a * b", "multiplies models"),
        ("a / b", "divides by a model"),
        ("a / (1 - 1)", "divides by zero"),
        ("a + 1", "adds a number to a model"),
        ("1 - a", "adds a number to a model"),
        ("a ** 2", "'a \\*\\* 2' in .* is no arithmetic"),
        ("9 ** 9 ** 9 * a", "is no arithmetic"),
        ("a // 2", "is no arithmetic"),
        ("a @ b", "is no arithmetic"),
        ("~a", "is no arithmetic"),
        ("a.b", "'a.b' in .* is no arithmetic"),
        ("a[0]", "is no arithmetic"),
        ("mean(a, b)", "is no arithmetic"),
        ("__import__('os').system('true')", "is no arithmetic"),
        ("(lambda: a)()", "is no arithmetic"),
        ("[a for a in b]", "is no arithmetic"),
        ("(a := b)", "is no arithmetic"),
        ("a if b else c", "is no arithmetic"),
        ("a < b", "is no arithmetic"),
        ("'a' * 2", "is no arithmetic"),
        ("f'{a}'", "is no arithmetic"),
        ("True * a", "'True' in .* is no arithmetic"),
        ("2j * a", "is no arithmetic"),
        ("1e999 * a", "not finite"),
        ("1e308 * 1e308 * a", "not finite"),
        (f"{'9' * 400} * a", "not finite"),
        ("a\0", "does not read"),
        ("a * (1 / 0)", "divides by zero"),
        ("-" * 1500 + "a", "does not read"),
        ("(" * 900 + "a" + ")" * 900, "does not read"),
        ("a + " * LONGEST + "a", f"{LONGEST} at most"),
    ],
)
def test_what_is_no_expression(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


@given(st.text(st.sampled_from("ab0123.+-*/() \n\t_'e\\"), max_size=30))
def test_any_text_reads_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except InputError:
        return
    assert all(math.isfinite(factor) for factor in found.coefficients.values())
    found.of(dict.fromkeys(found.names, torch.ones(1)))


def test_names_stand_for_paths_or_for_themselves() -> None:
    expression = parse("a + b - c")
    assert bound(expression, ["a=models/a", "c=x=y"]) == {"a": "models/a", "b": "b", "c": "x=y"}
    for pair, message in (("d=x", "'d' is not in"), ("a", "no NAME=PATH"), ("a=", "no NAME=PATH"), ("a-b=x", "no NAME=PATH")):
        with pytest.raises(InputError, match=message):
            bound(expression, [pair])
    with pytest.raises(InputError, match="two paths"):
        bound(expression, ["a=x", "a=y"])
