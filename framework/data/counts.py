"""What became of a dataset's rows: the numbers and lists of the report."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_LISTED = 1000
"""Row ids that the report keeps of each kind."""


@dataclass(kw_only=True)
class Counts:
    """What became of one dataset's rows."""

    name: str
    num_rows: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_skipped_rows: int = 0
    num_cleaned_rows: int = 0
    """Rows that cleaners removed."""
    num_over_length_rows: int = 0
    num_untrained_rows: int = 0
    skipped_rows: list[str] = field(default_factory=list)
    """The first of them, with file, line and reason."""
    over_length_rows: list[int] = field(default_factory=list)
    untrained_rows: list[int] = field(default_factory=list)
    """Rows with no token to train; they are left out."""

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.num_rows} rows, {self.num_skipped_rows} skipped, "
            f"{self.num_cleaned_rows} removed by cleaners, "
            f"{self.num_over_length_rows} over length, "
            f"{self.num_untrained_rows} with nothing to train"
        )


def note(rows: list[int], row: int) -> None:
    """Adds a row to a list of the report unless that is full."""
    if len(rows) < MOST_LISTED:
        rows.append(row)
