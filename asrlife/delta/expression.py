"""Arithmetic of weights as text: a small part of Python's grammar, read and never run."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from asrlife.errors import InputError

Value = TypeVar("Value")
LONGEST = 2000
"""Characters."""
_HELP = "write sums, differences and multiples of names, as in 'target + 0.4 * (real - synthetic)'"
_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


@dataclass(frozen=True)
class _Form:
    """A linear form of names, or a number."""

    number: float | None
    weights: Mapping[str, float]

    def times(self, scale: float) -> _Form:
        number = None if self.number is None else self.number * scale
        return _Form(number, {name: weight * scale for name, weight in self.weights.items()})


@dataclass(frozen=True, eq=False)
class Expression:
    """A sum of multiples of named vectors, taken in the order it is written in.

    The order of its sums is that of the text, by Python's rules: brackets first, products before sums, left to right; every operation
    rounds once. Hence `a + 0.4 * (b - c)`, which is what SYN2REAL says, and `a + 0.4 * b - 0.4 * c` differ in their last bits, and
    the first is the more exact one where b and c are near. `x / n` is `x * (1 / n)`; numbers are worked out in float64 beforehand.
    `names` in the order in which they appear, `coefficients` what each is multiplied by in all.
    """

    text: str
    names: tuple[str, ...]
    coefficients: Mapping[str, float]
    _tree: ast.expr

    def of(self, values: Mapping[str, Value]) -> Value:
        """The value with `values` for the names: anything that adds, subtracts and takes a float as factor."""
        found: Value = _value(self._tree, values)
        return found


def parse(text: str) -> Expression:
    """Read an expression of + - * / and brackets over numbers and names; InputError says what else stands there, and where.

    A product needs a number on one side, a sum may not mix numbers and names, and something must be named.
    """
    if len(text) > LONGEST:
        raise InputError(f"an expression of {len(text)} characters: {LONGEST} at most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        form = _form(tree, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{text!r} does not read as an expression ({getattr(error, 'msg', error)}): {_HELP}") from error
    if form.number is not None:
        raise InputError(f"{text!r} names no model: {_HELP}")
    if not all(math.isfinite(weight) for weight in form.weights.values()):
        raise InputError(f"{text!r} has a factor that is not finite")
    order = {node.id: (node.lineno, node.col_offset) for node in reversed(_names(tree))}
    names = tuple(sorted(order, key=lambda name: order[name]))
    return Expression(text.strip(), names, MappingProxyType({name: form.weights[name] for name in names}), tree)


def with_numbers(text: str, numbers: Mapping[str, float]) -> str:
    """The expression with numbers in the place of names; InputError for a name that it has not."""
    for name, number in numbers.items():
        value = repr(float(number)) if number >= 0 else f"({float(number)!r})"
        text, count = re.subn(rf"\b{re.escape(name)}\b", value, text)
        if not count:
            raise InputError(f"{name!r} is not in {text!r}: name a factor that stands there, as s in 'a + s * (b - c)'")
    return text


def _names(tree: ast.expr) -> list[ast.Name]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _form(node: ast.expr, text: str) -> _Form:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _Form(_finite(number, text), {})
        case ast.Name(id=name):
            return _Form(None, {name: 1.0})
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _form(inner, text)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _form(inner, text).times(-1.0)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
            return _sum(_form(left, text), _form(right, text), 1.0 if isinstance(sign, ast.Add) else -1.0, text)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_form(left, text), _form(right, text), text)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _product(_form(left, text), _Form(_inverse(_form(right, text), text), {}), text)
    raise InputError(f"{_piece(node, text)!r} in {text!r} is no arithmetic of weights: {_HELP}")


def _sum(left: _Form, right: _Form, sign: float, text: str) -> _Form:
    right = right.times(sign)
    if (left.number is None) != (right.number is None):
        raise InputError(f"{text!r} adds a number to a model: {_HELP}")
    if left.number is not None and right.number is not None:
        return _Form(left.number + right.number, {})
    names = [*left.weights, *right.weights]
    return _Form(None, {name: left.weights.get(name, 0.0) + right.weights.get(name, 0.0) for name in names})


def _product(left: _Form, right: _Form, text: str) -> _Form:
    if left.number is not None:
        return right.times(left.number)
    if right.number is not None:
        return left.times(right.number)
    raise InputError(f"{text!r} multiplies models by one another: a factor is a number")


def _inverse(form: _Form, text: str) -> float:
    if not form.number:
        raise InputError(f"{text!r} divides by {'zero' if form.number == 0 else 'a model'}: divide by a number")
    return 1.0 / form.number


def _finite(number: float, text: str) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InputError(f"{text!r} has a number that is not finite")
    return value


def _piece(node: ast.expr, text: str) -> str:
    return ast.get_source_segment(text.strip(), node) or type(node).__name__


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a tree that `_form` has found good; numbers are Python floats."""
    match node:
        case ast.Constant(value=number):
            return float(number)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=sign, operand=inner):
            value = _value(inner, values)
            return value if isinstance(sign, ast.UAdd) else -1.0 * value
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _value(right, values)
            dividend = _value(left, values)
            return dividend / divisor if isinstance(dividend, float) else dividend * (1.0 / divisor)
        case ast.BinOp(left=left, op=sign, right=right):
            return _OPERATORS[type(sign)](_value(left, values), _value(right, values))
    raise AssertionError(node)


def bound(expression: Expression, pairs: Iterable[str]) -> dict[str, str]:
    """What each name stands for: `NAME=PATH` pairs, and the name itself as a path for the rest; InputError for a pair nobody uses."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, path = pair.partition("=")
        if not sign or not path or not name.isidentifier():
            raise InputError(f"{pair!r} is no NAME=PATH, with a name of letters, digits and _")
        if name in found:
            raise InputError(f"{name!r} stands for two paths, {found[name]!r} and {path!r}: give it one")
        if name not in expression.names:
            raise InputError(f"{name!r} is not in {expression.text!r}: its names are {', '.join(expression.names)}")
        found[name] = path
    return {name: found.get(name, name) for name in expression.names}
