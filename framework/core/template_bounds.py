"""How much time and memory a template may take, and what it may call, asked before it is done."""

from __future__ import annotations

import functools
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import filters
from jinja2.utils import Namespace, pass_context

SECONDS = 1.0
"""Processor time of one rendering, at most; a real one takes milliseconds."""
TEMPLATE_CHARACTERS = 1 << 16
"""Of a template's text; the longest of a published model has 20,000."""
TEXT_CHARACTERS = 1 << 24
"""Of one text that a template makes."""
TOTAL_CHARACTERS = 1 << 26
"""Of all long texts that one rendering makes."""
NUM_VALUES = 200_000
"""Values in one list or mapping that a template makes, those inside its items counted each time."""

_BETWEEN_CLOCKS = 64
_LONG = 10_000
_MANY = 1000
_INTEGER_BITS = 4096
WIDTH = 1000
"""Characters that padding and indentation may ask for."""


class TemplateExceeds(Exception):
    """A template took more time or memory than any real one."""


class _Meter(threading.local):
    """What the rendering of this thread has used."""

    characters = 0
    started: float | None = None
    """When the first look at the clock was."""
    computed: float | None = None
    """Processor time so far, at the first look after half of the seconds."""

    def reset(self) -> None:
        self.characters = 0
        self.started = self.computed = None


meter = _Meter()
_next_step = itertools.count().__next__


def step() -> None:
    if not _next_step() % _BETWEEN_CLOCKS:
        _read_clock()


def _read_clock() -> None:
    """The clock of the wall first: to ask for processor time takes longer than most renderings."""
    now = time.monotonic()
    if meter.started is None:
        meter.started = now
    elif now - meter.started > SECONDS / 2:
        computed = time.thread_time()
        if meter.computed is None:
            meter.computed = computed
        elif computed - meter.computed > SECONDS / 2:
            raise TemplateExceeds(f"takes more than {SECONDS:g} s for one text")


def _demand(characters: int) -> None:
    """Passes when so long a text may be made."""
    if characters > _LONG:
        _read_clock()
        meter.characters += characters
        if characters > TEXT_CHARACTERS or meter.characters > TOTAL_CHARACTERS:
            raise TemplateExceeds(f"makes texts of more than {TEXT_CHARACTERS:,} characters")


def _demand_values(number: int) -> None:
    if number > NUM_VALUES:
        raise TemplateExceeds(f"makes a list of more than {NUM_VALUES:,} values")


def made(value: Any) -> Any:
    """A value that a call or a filter gave, counted."""
    if not _next_step() % _BETWEEN_CLOCKS:
        _read_clock()
    kind = type(value)
    if kind is str:
        if len(value) > _LONG:
            _demand(len(value))
    elif kind in _CONTAINERS:
        weigh(value)
    elif isinstance(value, str):
        _demand(len(value))
    return value


_CONTAINERS = frozenset({dict, list, tuple})


def taken(value: Any) -> Any:
    """An item or a slice, counted: it stands for no more values than what it is of."""
    step()
    if isinstance(value, str):
        _demand(len(value))
    return value


def weigh(value: Any) -> Any:
    """A list or mapping, unless it stands for more than `NUM_VALUES` values.

    A list that holds another twice, which does so too, doubles with every line of a template, and
    so does the time to write, compare or hash it.
    """
    number, characters = 0, 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        number += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, dict):
            _demand_values(number + len(waiting) + len(one))
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            _demand_values(number + len(waiting) + len(one))
            waiting.extend(one)
    if number > _MANY:
        _read_clock()
    if characters > TEXT_CHARACTERS:
        _demand(characters)
    return value


def shown(value: Any) -> str:
    """A value as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, dict)):
        _demand(_characters(value))
    elif isinstance(value, int):
        _demand_integer(value)
    elif isinstance(value, Namespace):
        raise TypeError("a namespace is no text")
    return str(value)


def _characters(value: Any) -> int:
    """About as many as a list or mapping has as text; `weigh` has bounded what it stands for."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(key) + _characters(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return sum(map(_characters, value))
    if isinstance(value, Namespace):
        raise TypeError("a namespace is no text")
    return 1


def joined(parts: Iterable[Any]) -> str:
    """Texts, and values that become text, as one."""
    parts = list(parts)
    try:
        _demand(sum(map(len, parts)))
        return "".join(parts)
    except TypeError:
        texts = [shown(part) for part in parts]
    _demand(sum(map(len, texts)))
    return "".join(texts)


def counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        step()
        yield item


# ---- operators


def _add(left: Any, right: Any) -> Any:
    if isinstance(left, str) and isinstance(right, str):
        _demand(len(left) + len(right))
    elif isinstance(left, (list, tuple)):
        return made(left + right)
    return left + right


def add_up(*parts: Any) -> Any:
    """What `a + b + c` gives."""
    for part in parts:
        if type(part) is not str:
            return functools.reduce(_add, parts)
    _demand(sum(map(len, parts)))
    return "".join(parts)


def _multiply(left: Any, right: Any) -> Any:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, str) and isinstance(times, int):
            _demand(len(one) * times)
        elif isinstance(one, (list, tuple)) and isinstance(times, int):
            _demand_values(len(one) * times)
            return made(left * right)
        else:
            _demand_integer(one)
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _demand_integer(left)
        if right > 0 and left.bit_length() * right > _INTEGER_BITS:
            raise OverflowError("a number gets too large")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        return _filled(left, right)
    _demand_integer(left)
    _demand_integer(right)
    return left % right


def _quotient(left: Any, right: Any) -> Any:
    _demand_integer(left)
    _demand_integer(right)
    return left // right


def _demand_integer(value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        raise OverflowError("a number gets too large")


OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": _add,
    "*": _multiply,
    "**": _power,
    "%": _remainder,
    "//": _quotient,
}


# ---- texts that are made of others


def _filled(pattern: str, values: Any) -> str:
    """`pattern % values`."""
    if "*" in pattern:
        raise ValueError("a width must be written out")
    return made(pattern % _fillings(pattern, pattern.count("%"), values))


def _fillings(pattern: str, num_places: int, values: Any) -> Any:
    """The values, unless what they are filled into gets too long."""
    if any(int(number) > WIDTH for number in re.findall(r"\d+", pattern)):
        raise ValueError(f"a width is larger than {WIDTH}")
    items = values.values() if isinstance(values, dict) else values
    items = items if isinstance(values, (dict, tuple)) else (values,)
    longest = max((len(shown(item)) for item in items), default=0)
    _demand(len(pattern) + num_places * (longest + WIDTH))
    return values


def formatted(pattern: str, format_: Callable[..., str], *args: Any, **kwargs: Any) -> str:
    """`pattern.format(...)`, where `format_` is the sandbox's."""
    if re.search(r"\{[^{}]*\{", pattern.replace("{{", "")):
        raise ValueError("a width must be written out")
    _fillings(pattern, pattern.count("{"), (*args, *kwargs.values()))
    return format_(*args, **kwargs)


def join(text: str, items: Iterable[Any]) -> str:
    parts = list(counted(items))
    _demand(sum(len(part) for part in parts if isinstance(part, str)) + len(text) * len(parts))
    return text.join(parts)


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    if len(new) > len(old):
        times = text.count(old)
        times = times if count is None or count < 0 else min(times, count)
        _demand(len(text) + times * (len(new) - len(old)))
    return text.replace(old, new, -1 if count is None else count)


_TEXT_METHODS = """
capitalize casefold count endswith find format format_map index isalnum isalpha isascii isdecimal
isdigit islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix
removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
swapcase title upper
"""

METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(_TEXT_METHODS.split()),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"get", "items", "keys", "values"}),
    int: frozenset(),
    bool: frozenset(),
    float: frozenset({"is_integer"}),
    bytes: frozenset(),
    type: frozenset(),
}
"""What a template may call of the values that it meets."""


BOUNDED: Mapping[str, Callable[..., str]] = {"join": join, "replace": replace}
"""Methods of texts that are asked first how long a text they make."""


# ---- filters


def _list(value: Any) -> list[Any]:
    if isinstance(value, Sequence):
        _demand_values(len(value))
    return list(counted(value))


@pass_context
def _join_filter(context: Any, value: Any, d: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = context.environment.filters["map"](context, value, attribute=attribute)
    return join(shown(d), (shown(item) for item in counted(value)))


def _replace_filter(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return replace(shown(value), shown(old), shown(new), -1 if count is None else count)


def _format_filter(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise jinja2.exceptions.FilterArgumentError("write values or names, not both")
    return _filled(shown(value), kwargs or args)


def _indent_filter(
    value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    if isinstance(width, int) and width > WIDTH:
        raise ValueError(f"a width is larger than {WIDTH}")
    indention = width if isinstance(width, str) else " " * width
    text = shown(value)
    _demand(len(text) + (text.count("\n") + 1) * len(indention))
    return filters.do_indent(text, indention, first, blank)


def _int_filter(value: Any, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > WIDTH:
        return default
    return filters.do_int(value, default, base)


def _round_filter(value: Any, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 20:
        raise ValueError(f"round can't have a precision of {precision}")
    return filters.do_round(value, precision, method)


def _json_filter(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models read it: Jinja's own filter escapes HTML characters and sorts keys."""
    if (isinstance(indent, int) and indent > WIDTH) or len(joined((indent, separators))) > WIDTH:
        raise ValueError(f"an indentation or a separator has more than {WIDTH} characters")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@pass_context
def _sum_filter(context: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = context.environment.filters["map"](context, iterable, attribute=attribute)
    for item in counted(iterable):
        start = _add(start, item)
    return start


def _lazy(name: str) -> Callable[..., Iterator[Any]]:
    """One of Jinja's filters that yield, its items counted."""
    of_jinja = filters.FILTERS[name]

    @functools.wraps(of_jinja)  # with the mark that says what it is passed
    def lazy(*args: Any, **kwargs: Any) -> Iterator[Any]:
        return counted(of_jinja(*args, **kwargs))

    return lazy


_AS_IN_JINJA = """
abs attr capitalize count d default dictsort e escape first float items last length lower max min
reverse safe sort title trim truncate upper wordcount
"""

FILTERS: Mapping[str, Callable[..., Any]] = {
    **{name: filters.FILTERS[name] for name in _AS_IN_JINJA.split()},
    **{name: _lazy(name) for name in ("map", "reject", "rejectattr", "select", "selectattr")},
    "unique": _lazy("unique"),
    "format": _format_filter,
    "indent": _indent_filter,
    "int": _int_filter,
    "join": _join_filter,
    "list": _list,
    "replace": _replace_filter,
    "round": _round_filter,
    "string": shown,
    "sum": _sum_filter,
    "tojson": _json_filter,
}
