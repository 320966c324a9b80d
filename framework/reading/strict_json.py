"""JSON text -> value, refusing what other readers would silently drop or crash on later."""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_DIGITS = sys.get_int_max_str_digits()
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class BrokenJson(ValueError):
    """The text is not JSON, or is JSON that two readers would understand differently."""

    def __init__(self, what: str, line: int = 0, column: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        """1-based; 0 when unknown."""
        self.column = column
        """1-based; 0 when unknown."""


def parse_json(text: str) -> Any:
    """The value that `text` holds.

    Raises:
        BrokenJson: it is no JSON, repeats a key in an object, is nested too deeply, or escapes half
            of a surrogate pair, which no tokenizer can encode.
    """
    try:
        value = _DECODER.decode(text)
        if "\\u" in text and ("\\ud" in text or "\\uD" in text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 20) : error.pos + 20].strip()
        what = f"{error.msg} near {near!r}" if near else f"{error.msg}: the text ends here"
        raise BrokenJson(what, error.lineno, error.colno) from None
    except RecursionError:
        raise BrokenJson("is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise _half_of_pair(error) from None
    except BrokenJson:
        raise
    except ValueError:  # the one fault of int() that a number of JSON can have
        raise _long_number() from None
    return value


def parse_faulty_json(text: str) -> Any:
    """The value of a text that `parse_json` refuses, if it is JSON at all; `fault_in` finds why.

    Raises:
        BrokenJson: it is no JSON, or nested too deeply.
    """
    try:
        return _FAULTY_DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BrokenJson(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise BrokenJson("is nested too deeply") from None


def fault_in(value: object) -> BrokenJson | None:
    """Why `parse_json` would refuse this part of what `parse_faulty_json` gave; None if not."""
    if isinstance(value, BrokenJson):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return _half_of_pair(error)
    parts: Sequence[object] = ()
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        parts = value
    return next((fault for part in parts if (fault := fault_in(part))), None)


def kind_of(value: object) -> str:
    """What a JSON value is, in words: `a list`."""
    names: Sequence[tuple[type | tuple[type, ...], str]] = (
        (bool, "true or false"),
        (str, "a string"),
        ((int, float), "a number"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
        (type(None), "null"),
    )
    return next((name for types, name in names if isinstance(value, types)), type(value).__name__)


def shown(value: object) -> str:
    """The value as a message quotes it, cut short when it is long."""
    return _SHORT.repr(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise BrokenJson(f"writes the key {repeated!r} twice in one object")
    return found


def _unique_keys_or_fault(pairs: list[tuple[str, Any]]) -> dict[str, Any] | BrokenJson:
    try:
        return _unique_keys(pairs)
    except BrokenJson as error:
        return error


def _int_or_fault(digits: str) -> int | BrokenJson:
    return int(digits) if len(digits) <= _MOST_DIGITS else _long_number()


def _half_of_pair(error: UnicodeEncodeError) -> BrokenJson:
    return BrokenJson(f"escapes half of a surrogate pair, {error.object[error.start]!r}")


def _long_number() -> BrokenJson:
    return BrokenJson(f"holds a number of more than {_MOST_DIGITS:,} digits")


_FAULTY_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys_or_fault, parse_int=_int_or_fault)
_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""Made once: making one takes as long as reading a short row."""
