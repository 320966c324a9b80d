"""What a cleaner finds in a sample, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from framework.core.samples import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class RowName:
    """One row of one dataset."""

    dataset: str
    row: int

    def __str__(self) -> str:
        return f"{self.dataset}:{self.row}"


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A piece of a sample's text, for the list of findings; it is cut short and masked there."""

    where: str
    """The text it is from, such as `messages[1].content`."""
    before: str
    after: str = ""
    """What `change` made of it."""
    whole: bool = False
    """Nothing is cut or masked: the list is the only place that still has it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something in a sample that should not be trained on as it is."""

    action: Literal["change", "drop", "report", "refuse"]
    """`change`: `sample` takes its place. `drop`: it is left out. `report`: it stays. `refuse`: the
    preparation ends with an error that names the row."""
    reason: str
    """What was found, in one line."""
    hint: str = ""
    """With `refuse`: what to write instead."""
    excerpts: tuple[Excerpt, ...] = ()
    """The texts at fault."""
    like: RowName | None = None
    """The other row that it is like."""
    score: float | None = None
    """What the sample was given, by a cleaner that gives scores."""
    sample: Sample | None = None
    """With `change`: what takes its place."""
