"""A dataset's `rows` as text -> the bounds of its slice."""

from __future__ import annotations

import re

from framework.core.problems import UserError

_SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")
_NUMBER = re.compile(r"\d+%?")


def slice_bounds(rows: str) -> tuple[str | None, ...]:
    """What stands before and after the colon.

    Raises:
        UserError: it is not a slice.
    """
    written = rows.strip()
    match = _SLICE.fullmatch(written)
    if match is not None:
        return match.groups()
    hint = "write it like `:1000`, `100:200`, `:10%` or `-500:`"
    if _NUMBER.fullmatch(written):
        hint = f"write ':{written}' for the first {written}"
    raise UserError(f"{rows!r} is not a slice", hint)
