"""A row -> the formats that can read it, and how each knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from framework.core.protocols.data import Formatter, Recognisable
from framework.core.registries import registry
from framework.core.samples import Row


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """A format that reads a row, and why."""

    name: str
    """As a recipe writes it."""
    format: Formatter
    columns: Mapping[str, str] = field(default_factory=dict)
    """What it reads: column -> what that holds."""
    others: tuple[str, ...] = ()
    """Formats that would read only some of these columns."""

    @property
    def reason(self) -> str:
        """Why, in one line; empty where the recipe names the format."""
        held = " and ".join(f"{column!r} holds {kind}" for column, kind in self.columns.items())
        if not self.others:
            return held
        return f"{held}; {', '.join(self.others)} would read only part of that"


def recognitions(row: Row) -> tuple[Recognition, ...]:
    """Every format that knows the row as its own, by name.

    One whose columns are only some of another's steps back: rows of prompt, chosen and rejected
    are not prompts alone.

    Raises:
        UserError: a format of another package can't be imported.
    """
    found = dict(_found(row))
    names = {
        name: tuple(other for other in found if found[other].keys() < found[name].keys())
        for name in found
        if not any(found[name].keys() < columns.keys() for columns in found.values())
    }
    kind = registry("formatters")
    return tuple(
        Recognition(name=name, format=kind.get(name)(), columns=found[name], others=others)
        for name, others in names.items()
    )


def _found(row: Row) -> list[tuple[str, Mapping[str, str]]]:
    kind = registry("formatters")
    classes = [(name, kind.get(name)) for name in kind.names()]
    fitting = [(name, one.recognise(row)) for name, one in classes if isinstance(one, Recognisable)]
    return [(name, columns) for name, columns in fitting if columns]
