"""A dataset and the recipe's split -> a data source of the rows that are on one side."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, did_you_mean
from framework.core.protocols.data import Tallied
from framework.core.samples import Row, RowError
from framework.reading.chosen_rows import chosen_rows, renamed
from framework.reading.seeded import seeded

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Part, Split

_SIDES: tuple[Part, ...] = ("train", "eval", "test")
MOST_KEY_VALUES = 1000
"""From so many different values of a key on, they are no longer counted: parts are then about as
large as asked."""
_APART = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class SplitSource:
    """The rows of a dataset that are on one side of the split.

    A row without a column that the split needs is a bad row of the training side, as is one that
    can't be read.
    """

    dataset: Dataset
    """The whole; its `rows` choose before the split does."""
    split: Split
    side: Part
    _counts: Counter[Part] = field(default_factory=Counter, compare=False, repr=False)
    _places: set[float] = field(default_factory=set, compare=False, repr=False)
    """Of the first different values of the key."""

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """See `protocols.DataSource`. Exact parts are known when all rows have been read once."""
        self._counts.clear()
        self._places.clear()
        by_rows = None if self.split.key else self._exact_sides()
        # A drawn row's side depends on its place, so the rows before `start` count too.
        for number, row in chosen_rows(self.dataset, 1 if by_rows else start):
            side, shown = self._placed(number, row, by_rows)
            self._counts[side] += 1
            if side == self.side and number >= start:
                yield number, shown

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return self.dataset.source.place(number)

    def fingerprint(self) -> str:
        """Changes with the source's, and with what is taken of it."""
        chosen = [self.dataset.rows, self.dataset.columns, repr(self.split), self.side]
        parts = json.dumps([self.dataset.source.fingerprint(), *chosen], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    def tally(self) -> Mapping[str, int]:
        """Rows on each side, values of the key when they are few, and the source's own numbers."""
        source = self.dataset.source
        own = source.tally() if isinstance(source, Tallied) else {}
        sides = {f"num_{side}_rows": self._counts[side] for side in _SIDES}
        if self.split.key and len(self._places) < MOST_KEY_VALUES:
            return {**own, **sides, "num_key_values": len(self._places)}
        return {**own, **sides}

    def _placed(
        self, number: int, row: Row | Problem, by_rows: Iterator[Part] | None
    ) -> tuple[Part, Row | Problem]:
        """(side of the row, the row or what is wrong with it)."""
        if isinstance(row, Problem):
            return "train", row
        try:
            decisive = [self._value(row, column) for column in self._columns]
        except RowError as error:
            file, line = self.place(number)
            return "train", Problem(what=error.what, hint=error.hint, file=file, line=line)
        return (self._side_of_key(decisive) if by_rows is None else next(by_rows)), row

    # ---- by key

    @property
    def _columns(self) -> tuple[str, ...]:
        return self.split.key or ((self.split.stratify,) if self.split.stratify else ())

    def _value(self, row: Row, column: str) -> Any:
        named = renamed(row, self.dataset.columns)
        value = named.get(column)
        if column in named and (value is not None or not self.split.key):
            return value
        what = "is null in this row" if column in named else "is missing"
        raise RowError(
            f"column {column!r}, which data.split needs, {what}",
            did_you_mean(column, [name for name in named if name != column]),
        )

    def _side_of_key(self, values: list[Any]) -> Part:
        text = "\x1f".join([str(self.split.seed), *map(normalised, values)])
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
        if len(self._places) < MOST_KEY_VALUES:
            self._places.add(share)
        if share < self.split.test:
            return "test"
        return "eval" if share < self.split.test + self.split.eval else "train"

    # ---- by rows

    def _exact_sides(self) -> Iterator[Part]:
        """The side of every good row, in order."""
        names: dict[str, int] = {}
        classes = array("q")
        for _, row in chosen_rows(self.dataset):
            if isinstance(row, Problem):
                continue
            try:
                values = [self._value(row, column) for column in self._columns]
            except RowError:
                continue
            classes.append(names.setdefault(json.dumps(values, default=str), len(names)))
        drawn = _drawn(classes, list(names), self.split)
        return (_SIDES[side] for side in drawn)


def normalised(value: Any) -> str:
    """A value without what near-duplicates differ in: case, white space and punctuation."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    text = unicodedata.normalize("NFKC", text).casefold()
    # Of signs alone, the signs are the text.
    return _APART.sub("", text) or text.strip()


def _drawn(classes: array[int], names: list[str], split: Split) -> bytes:
    """The side of each row, as its place in `_SIDES`: within each class exact parts, by chance."""
    import numpy as np

    if not names:
        return b""
    sides = np.zeros(len(classes), dtype=np.uint8)
    of_row = np.frombuffer(classes, dtype=np.int64)
    by_class = np.argsort(of_row, kind="stable")
    ends = np.cumsum(np.bincount(of_row, minlength=len(names)))
    for name, rows in zip(names, np.split(by_class, ends[:-1]), strict=True):
        shuffled = seeded(f"{split.seed}/{name}").permutation(rows)
        num_test, num_eval = (int(len(rows) * part + 0.5) for part in (split.test, split.eval))
        sides[shuffled[:num_test]] = _SIDES.index("test")
        sides[shuffled[num_test : num_test + num_eval]] = _SIDES.index("eval")
    return sides.tobytes()
