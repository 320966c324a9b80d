"""What became of a dataset's rows: the numbers and lists of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from framework.core.over_length import Fate

T = TypeVar("T")

MOST_LISTED = 1000
"""Row ids that the report keeps of each kind."""


@dataclass(kw_only=True)
class Counts:
    """What became of one dataset's rows."""

    name: str
    format: str = ""
    """The format's name."""
    format_reason: str = ""
    """Why it was chosen; empty where the recipe names it."""
    num_rows: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_skipped_rows: int = 0
    num_cleaned_rows: int = 0
    """Rows that cleaners removed."""
    num_over_length_rows: int = 0
    num_cut_rows: int = 0
    """Of those over length: tokens were taken out."""
    num_split_rows: int = 0
    """Of those over length: they became several samples."""
    num_dropped_rows: int = 0
    """Of those over length: nothing is trained."""
    num_cut_answers: int = 0
    """Answers that are trained without the token at which to stop."""
    num_lost_trained_tokens: int = 0
    """Tokens of rows over length that would have been trained and are not."""
    num_untrained_rows: int = 0
    unread_columns: dict[str, str | None] = field(default_factory=dict)
    """Columns of the first rows that nothing reads -> the column that may be meant."""
    skipped_rows: list[str] = field(default_factory=list)
    """The first of them, with file, line and reason."""
    over_length_rows: list[int] = field(default_factory=list)
    dropped_rows: list[int] = field(default_factory=list)
    cut_answer_rows: list[int] = field(default_factory=list)
    dropped_parts: list[str] = field(default_factory=list)
    """What was left out of rows that were split, such as `17: messages 3 to 4 (512 tokens)`."""
    untrained_rows: list[int] = field(default_factory=list)
    """Rows with no token to train; they are left out."""

    def add_over_length(self, row: int, fate: Fate) -> None:
        """Counts and lists a row that was too long."""
        self.num_over_length_rows += 1
        self.num_cut_rows += fate.cut
        self.num_split_rows += fate.split
        self.num_dropped_rows += fate.dropped
        self.num_cut_answers += fate.num_cut_answers
        self.num_lost_trained_tokens += fate.num_lost_tokens
        note(self.over_length_rows, row)
        if fate.dropped:
            note(self.dropped_rows, row)
        if fate.num_cut_answers:
            note(self.cut_answer_rows, row)
        for part in fate.dropped_parts:
            note(self.dropped_parts, f"{row}: {part}")

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_rows} rows, {self.num_skipped_rows} skipped, "
            f"{self.num_cleaned_rows} removed by cleaners, "
            f"{self.num_over_length_rows} over length, "
            f"{self.num_untrained_rows} with nothing to train"
        )


def note(rows: list[T], row: T) -> None:
    """Adds a row to a list of the report unless that is full."""
    if len(rows) < MOST_LISTED:
        rows.append(row)
