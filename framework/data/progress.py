"""Rows read so far -> whoever shows how far a preparation is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of every row while data is prepared; never called for data that is in the cache."""

    def __call__(self, dataset: str, num_rows: int, total: int | None) -> None:
        """`num_rows` rows of the dataset are read so far.

        Args:
            dataset: its name.
            total: rows that it has at most; None where its source can't tell without reading them.
        """
        ...


def silent(dataset: str, num_rows: int, total: int | None) -> None:
    """Shows nothing."""
