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
        half = error.object[error.start]
        raise BrokenJson(f"escapes half of a surrogate pair, {half!r}") from None
    except BrokenJson:
        raise
    except ValueError:  # the one fault of int() that a number of JSON can have
        raise BrokenJson(f"holds a number of more than {_MOST_DIGITS:,} digits") from None
    return value


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


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""Made once: making one takes as long as reading a short row."""
