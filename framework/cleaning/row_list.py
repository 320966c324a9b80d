"""Rows of named datasets, numbered as they come, in ten bytes each."""

from __future__ import annotations

from array import array

from framework.core.cleaning import RowName
from framework.core.samples import NumberedSample


class RowList:
    """Remembers which row each of many entries was."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._datasets = array("H")
        self._rows = array("q")

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, numbered: NumberedSample) -> int:
        """The number under which the row is remembered."""
        self._datasets.append(self._names.setdefault(numbered.dataset, len(self._names)))
        self._rows.append(numbered.row)
        return len(self._rows) - 1

    def __getitem__(self, index: int) -> RowName:
        name = list(self._names)[self._datasets[index]]
        return RowName(dataset=name, row=self._rows[index])
