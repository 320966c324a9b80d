"""A row -> whether its columns hold what a format reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from framework.core.samples import Row
from framework.reading.strict_json import BrokenJson, parse_json


def columns_hold(row: Row, **kinds: str) -> Mapping[str, str]:
    """Column -> what it holds, if every named column holds what is said; empty if one does not.

    Args:
        kinds: column -> a key of `KINDS`, or several with ` | ` between; the first to fit counts.
    """
    found: dict[str, str] = {}
    for column, allowed in kinds.items():
        value = row.get(column)
        fitting = (kind for kind in allowed.split(" | ") if KINDS[kind](value))
        kind = next(fitting, None)
        if kind is None:
            return {}
        found[column] = kind
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_dialogue(value: object) -> bool:
    return isinstance(value, str) and "Human:" in value and "\n\nAssistant:" in value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_class(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_zero_or_one(value: object) -> bool:
    return isinstance(value, int) and value in (0, 1)


def _list_of(test: Callable[[object], bool]) -> Callable[[object], bool]:
    def is_list(value: object) -> bool:
        items = _listed(value)
        return bool(items) and all(map(test, items))

    return is_list


def _listed(value: object) -> Sequence[object]:
    """A list, or JSON text of one; empty for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except BrokenJson:
            return ()
    return value if isinstance(value, (list, tuple)) else ()


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str)


def _is_turn(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("from"), str) and "value" in value


def _is_score(value: object) -> bool:
    return isinstance(value, bool) or _is_number(value)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: Mapping[str, Callable[[object], bool]] = {
    "messages": _list_of(_is_message),
    "turns": _list_of(_is_turn),
    "a message": _is_message,
    "a turn": _is_turn,
    "a dialogue in one text": _is_dialogue,
    "text": _is_text,
    "true or false": _is_flag,
    "0 or 1": _is_zero_or_one,
    "a class": _is_class,
    "a number": _is_number,
    "a list of texts": _list_of(_is_text),
    "a list of true, false or numbers": _list_of(_is_score),
    "a list of token ids": _list_of(_is_id),
}
"""What a column can hold, in the words of messages; the order decides nothing."""
