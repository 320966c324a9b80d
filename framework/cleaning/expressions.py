"""A condition in Jinja's expression grammar -> a function of a row's facts; runs no code of it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from framework.core.linear_pattern import PatternError, linear_pattern
from framework.core.problems import did_you_mean

LONGEST = 2000
"""Characters of an expression."""
_DEEPEST = 50
"""Levels of an expression, so that reading it can't exhaust the stack."""

Value = Any
Facts = Mapping[str, Value]
_Evaluate = Callable[[Facts], Value]


class ExpressionError(ValueError):
    """An expression is wrong; says what, and at which character."""

    def __init__(self, what: str, column: int, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.column = column
        """From 1."""
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class _Typed:
    """A part of an expression: what kind of value it has, and how it is found."""

    kind: str
    """`number`, `text`, `truth`, `list`, or `any` where only the row tells."""
    evaluate: _Evaluate


def compile_expression(source: str, names: Mapping[str, str]) -> Callable[[Facts], bool]:
    """The condition as a function of a row's facts.

    Args:
        names: the facts that it may name, each with its kind: `number`, `text`, `truth`, or
            `columns` for a mapping whose items are written `name.item`.

    Raises:
        ExpressionError: it isn't well-formed, names what isn't there, or compares what can't be.
    """
    if len(source) > LONGEST:
        raise ExpressionError(f"has {len(source):,} characters, the most are {LONGEST:,}", LONGEST)
    typed = _Compiler(source, names).translate(_parse(source), 0)
    if typed.kind not in {"truth", "any"}:
        raise ExpressionError(
            f"is a {typed.kind}, not true or false", 1, "compare it, such as num_words > 5"
        )
    return lambda facts: bool(typed.evaluate(facts))


def _parse(source: str) -> Any:
    """Jinja's syntax tree, in which the line of every node is its column."""
    import jinja2
    from jinja2.lexer import TokenStream
    from jinja2.parser import Parser

    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - nothing is rendered
    column = 1
    tokens: list[tuple[int, str, str]] = []
    try:
        for _, kind, text in environment.lexer.tokeniter(source, None, None, "variable"):
            tokens.append((column, kind, text))
            column += len(text)
        parser = Parser(environment, " ", state="variable")
        wrapped = environment.lexer.wrap(iter(tokens))
        parser.stream = TokenStream(wrapped, None, None)
        tree = parser.parse_expression()
        rest = parser.stream.current
    except jinja2.TemplateSyntaxError as error:
        where = min(column if not tokens else max(error.lineno, 1), len(source) + 1)
        at_end = "end of template" in str(error.message)
        what = "ends too early" if at_end else str(error.message).partition(" at ")[0]
        if str(error.message).startswith("unexpected char"):
            where = column
        raise ExpressionError(what, len(source) + 1 if at_end else where) from None
    except RecursionError:
        raise ExpressionError("is nested too deeply", 1) from None
    if rest.type != "eof":
        raise ExpressionError(f"unexpected {rest.value!r}", rest.lineno, _operator_hint(rest.value))
    return tree


def _operator_hint(written: object) -> str:
    known = {"=": "write == to compare", "&": "write and", "|": "write or"}
    return known.get(str(written), "")


_COMPARISONS: Mapping[str, tuple[str, Callable[[Value, Value], Value]]] = {
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
    "lt": ("<", operator.lt),
    "lteq": ("<=", operator.le),
    "gt": (">", operator.gt),
    "gteq": (">=", operator.ge),
    "in": ("in", lambda item, whole: item in whole),
    "notin": ("not in", lambda item, whole: item not in whole),
}
_ARITHMETIC: Mapping[str, tuple[str, Callable[[Value, Value], Value]]] = {
    "Add": ("+", operator.add),
    "Sub": ("-", operator.sub),
    "Mul": ("*", operator.mul),
    "Div": ("/", operator.truediv),
}
_FUNCTIONS: Mapping[str, tuple[tuple[str, ...], str, Callable[..., Value]]] = {
    "len": (("text or list",), "number", len),
    "lower": (("text",), "text", str.lower),
    "upper": (("text",), "text", str.upper),
    "strip": (("text",), "text", str.strip),
    "startswith": (("text", "text"), "truth", str.startswith),
    "endswith": (("text", "text"), "truth", str.endswith),
    "count": (("text", "text"), "number", str.count),
    "matches": (("text", "pattern"), "truth", bool),
}
"""Name -> kinds of its arguments, kind of its result, and what computes it."""


class _Compiler:
    """Turns a syntax tree into functions, and refuses every node that it does not know."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = names

    def translate(self, node: Any, depth: int) -> _Typed:
        if depth > _DEEPEST:
            raise ExpressionError("is nested too deeply", node.lineno)
        kind = type(node).__name__
        if kind in _ARITHMETIC:
            return self._arithmetic(node, kind, depth)
        translators = {
            "Const": self._constant,
            "Name": self._name,
            "Getattr": self._column,
            "And": self._both,
            "Or": self._both,
            "Not": self._negation,
            "Neg": self._sign,
            "Pos": self._sign,
            "Compare": self._comparison,
            "List": self._list,
            "Tuple": self._list,
            "Call": self._call,
        }
        if kind not in translators:
            raise ExpressionError(
                f"{_described(kind)} can't be used here",
                node.lineno,
                "write comparisons, and, or, not, in, + - * /, and the functions "
                + ", ".join(_FUNCTIONS),
            )
        return translators[kind](node, depth)

    def _constant(self, node: Any, depth: int) -> _Typed:
        value = node.value
        kinds = {bool: "truth", int: "number", float: "number", str: "text", type(None): "any"}
        return _Typed(kind=kinds[type(value)], evaluate=lambda facts: value)

    def _name(self, node: Any, depth: int) -> _Typed:
        name = node.name
        if name not in self._names:
            if name in _FUNCTIONS:
                raise ExpressionError(f"{name!r} is a function", node.lineno, f"write {name}(...)")
            raise ExpressionError(
                f"{name!r} is not a name here", node.lineno, did_you_mean(name, self._names)
            )
        if self._names[name] == "columns":
            raise ExpressionError(f"{name!r} are many", node.lineno, f"write {name}.NAME")
        return _Typed(kind=self._names[name], evaluate=operator.itemgetter(name))

    def _column(self, node: Any, depth: int) -> _Typed:
        owner, name = getattr(node.node, "name", ""), node.attr
        if self._names.get(owner) != "columns":
            raise ExpressionError("an attribute (.) can't be used here", node.lineno)

        def evaluate(facts: Facts) -> Value:
            if name not in facts[owner]:
                hint = did_you_mean(name, facts[owner])
                raise LookupError(f"the row has no column {name!r}; {hint}".rstrip("; "))
            return facts[owner][name]

        return _Typed(kind="any", evaluate=evaluate)

    def _both(self, node: Any, depth: int) -> _Typed:
        sides = [self.translate(side, depth + 1) for side in (node.left, node.right)]
        for side, typed in zip((node.left, node.right), sides, strict=True):
            self._demand(typed, ("truth",), side, "true or false")
        left, right = (side.evaluate for side in sides)
        if type(node).__name__ == "And":
            return _Typed(kind="truth", evaluate=lambda f: bool(left(f)) and bool(right(f)))
        return _Typed(kind="truth", evaluate=lambda f: bool(left(f)) or bool(right(f)))

    def _negation(self, node: Any, depth: int) -> _Typed:
        inner = self.translate(node.node, depth + 1)
        self._demand(inner, ("truth",), node.node, "true or false")
        return _Typed(kind="truth", evaluate=lambda facts: not inner.evaluate(facts))

    def _sign(self, node: Any, depth: int) -> _Typed:
        inner = self.translate(node.node, depth + 1)
        self._demand(inner, ("number",), node.node, "a number")
        if type(node).__name__ == "Pos":
            return inner
        return _Typed(kind="number", evaluate=lambda facts: -_number(inner.evaluate(facts)))

    def _arithmetic(self, node: Any, kind: str, depth: int) -> _Typed:
        symbol, compute = _ARITHMETIC[kind]
        sides = [self.translate(side, depth + 1) for side in (node.left, node.right)]
        for side, typed in zip((node.left, node.right), sides, strict=True):
            self._demand(typed, ("number",), side, f"a number, as {symbol} takes")
        left, right = (side.evaluate for side in sides)
        return _Typed(
            kind="number", evaluate=lambda f: compute(_number(left(f)), _number(right(f)))
        )

    def _comparison(self, node: Any, depth: int) -> _Typed:
        first = self.translate(node.expr, depth + 1)
        values = [first.evaluate]
        steps: list[Callable[[Value, Value], Value]] = []
        left, left_node = first, node.expr
        for operand in node.ops:
            symbol, compare = _COMPARISONS[operand.op]
            right = self.translate(operand.expr, depth + 1)
            self._demand_comparable(symbol, left, right, left_node, operand.expr)
            values.append(right.evaluate)
            steps.append(compare)
            left, left_node = right, operand.expr

        def evaluate(facts: Facts) -> bool:
            found = [value(facts) for value in values]
            return all(
                compare(one, other)
                for compare, one, other in zip(steps, found, found[1:], strict=False)
            )

        return _Typed(kind="truth", evaluate=evaluate)

    def _demand_comparable(
        self, symbol: str, left: _Typed, right: _Typed, left_node: Any, right_node: Any
    ) -> None:
        if symbol in {"in", "not in"}:
            self._demand(right, ("text", "list"), right_node, f"a text or a list, as {symbol} does")
            if right.kind == "text":
                self._demand(left, ("text",), left_node, "a text, to be in a text")
        elif symbol not in {"==", "!="}:
            self._demand(
                left, ("number", "text"), left_node, f"a number or a text, as {symbol} does"
            )
            self._demand(right, (left.kind,), right_node, f"a {left.kind} as before {symbol}")
        elif left.kind != "any":
            self._demand(right, (left.kind,), right_node, f"a {left.kind} as before {symbol}")

    def _list(self, node: Any, depth: int) -> _Typed:
        items = [self.translate(item, depth + 1).evaluate for item in node.items]
        return _Typed(kind="list", evaluate=lambda facts: [item(facts) for item in items])

    def _call(self, node: Any, depth: int) -> _Typed:
        name = getattr(node.node, "name", "")
        if name not in _FUNCTIONS:
            if self._names.get(name):
                raise ExpressionError(f"{name!r} is no function", node.node.lineno)
            raise ExpressionError(
                f"{name or 'this'!r} is not a function here",
                node.node.lineno,
                did_you_mean(name, _FUNCTIONS),
            )
        kinds, result, compute = _FUNCTIONS[name]
        if len(node.args) != len(kinds) or node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise ExpressionError(
                f"{name} takes {len(kinds)} arguments", node.node.lineno, f"{', '.join(kinds)}"
            )
        arguments = [self.translate(argument, depth + 1) for argument in node.args]
        for kind, typed, argument in zip(kinds, arguments, node.args, strict=True):
            allowed = {"text or list": ("text", "list"), "pattern": ("text",)}.get(kind, (kind,))
            self._demand(typed, allowed, argument, f"a {kind}, as {name} takes")
        if name == "matches":
            return self._matches(node, arguments)
        evaluates = [typed.evaluate for typed in arguments]
        return _Typed(
            kind=result, evaluate=lambda facts: compute(*(one(facts) for one in evaluates))
        )

    def _matches(self, node: Any, arguments: Sequence[_Typed]) -> _Typed:
        written = node.args[1]
        if type(written).__name__ != "Const":
            raise ExpressionError(
                "the pattern of matches must be written out", written.lineno, "write it in quotes"
            )
        try:
            search = linear_pattern(written.value)
        except PatternError as error:
            raise ExpressionError(str(error), written.lineno, error.hint) from None
        text = arguments[0].evaluate
        return _Typed(kind="truth", evaluate=lambda facts: search(_text(text(facts))))

    def _demand(self, typed: _Typed, kinds: Sequence[str], node: Any, wanted: str) -> None:
        if typed.kind == "any" or "any" in kinds or typed.kind in kinds:
            return
        shown = self._source[_start(node) - 1 :].split()[:1]
        raise ExpressionError(
            f"{' '.join(shown)!r} is a {typed.kind}, not {wanted}", _start(node), ""
        )


def _start(node: Any) -> int:
    """The column of the leftmost part of a node: an operator's own is its operator's."""
    import jinja2.nodes

    columns = [one.lineno for one in node.find_all(jinja2.nodes.Expr)]
    return min([node.lineno, *columns])


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.40} is not a number")
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


@functools.cache
def _described(kind: str) -> str:
    known = {
        "Filter": "a filter (|)",
        "Test": "a test (is)",
        "Getitem": "an index ([...])",
        "Concat": "joining with ~",
        "CondExpr": "if ... else",
        "Pow": "a power (**)",
        "Dict": "a mapping",
        "Mod": "a remainder (%)",
        "FloorDiv": "a whole division (//)",
    }
    return known.get(kind, kind)
