"""The first rows of a dataset -> which of their columns nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from framework.core.problems import nearest
from framework.core.samples import Row, Sample

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values

    from framework.recipe.schema import Dataset

NUM_WATCHED_ROWS = 100
"""Rows of a dataset that are looked at."""


class ColumnWatch:
    """Sees which columns of a dataset's first rows its format asks for."""

    def __init__(self, dataset: Dataset) -> None:
        self._renamed = set(dataset.columns)
        self._asked: set[str] = set()
        if dataset.loss_weight_column is not None:
            self._asked.add(dataset.loss_weight_column)
        self._filled: dict[str, None] = {}
        self._num_rows = 0

    def read(self, row: Row, format_: Callable[[Row], Sample]) -> Sample:
        """What the format makes of the row, to which `columns` is applied.

        Raises:
            RowError: it does not fit; what was asked for then counts for nothing.
        """
        if self._num_rows == NUM_WATCHED_ROWS:
            return format_(row)
        watched = _WatchedRow(row)
        sample = format_(watched)
        self._num_rows += 1
        self._asked |= watched.asked
        self._filled |= {name: None for name, value in row.items() if value is not None}
        return sample

    def unread(self) -> dict[str, str | None]:
        """Column -> the column that the format asked for and the rows lack, where one is near.

        Empty columns are passed over, and those that `columns` names unless it seems mistaken.
        """
        missing = sorted(self._asked - set(self._filled))
        unread = [name for name in self._filled if name not in self._asked]
        found = {name: nearest(name, missing) for name in unread}
        return {name: near for name, near in found.items() if near or name not in self._renamed}


class _WatchedRow(dict[str, Any]):
    """Notes each name that it is asked for; all of its own where somebody goes through it."""

    def __init__(self, row: Row) -> None:
        super().__init__(row)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._ask_for_all()
        return super().__iter__()

    def keys(self) -> dict_keys[str, Any]:
        self._ask_for_all()
        return super().keys()

    def values(self) -> dict_values[str, Any]:
        self._ask_for_all()
        return super().values()

    def items(self) -> dict_items[str, Any]:
        self._ask_for_all()
        return super().items()

    def _ask_for_all(self) -> None:
        self.asked.update(super().keys())
