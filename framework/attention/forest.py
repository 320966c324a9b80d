"""Documents that begin alike -> a row in which each common beginning stands once.

The row is a forest written depth first: a segment of tokens, then everything that continues it.
Every document is a path from a root down; what it may see are its own path's tokens, so a beginning
is computed once for all documents that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from framework.core.batch import Segment

MIN_SHARED_LENGTH = 16
"""Shorter common beginnings are computed again for each document: that takes less time than
attention over one more piece."""


class Forest(NamedTuple):
    """How a batch's documents are laid in a row of U tokens, T of them where nothing is shared."""

    segments: tuple[Segment, ...]
    """By their first row; all rows are in one of them."""
    tokens: NDArray[np.int64]
    """[U]: which of the batch's tokens stands in each row."""
    rows: NDArray[np.int64]
    """[T]: the row of each of the batch's tokens."""


def common_beginnings(documents: Sequence[NDArray[np.int64]]) -> tuple[list[int], list[int]]:
    """(An order of the documents, how many tokens each has in common with the one before it).

    Any two documents have no more in common than those between them in this order have. Fewer
    than `MIN_SHARED_LENGTH` tokens count as none.
    """
    # Big-endian, so that bytes are in the order of the numbers.
    keys = [document.astype(">i8").tobytes() for document in documents]
    order = sorted(range(len(documents)), key=keys.__getitem__)
    shared = [0] * len(order)
    for place in range(1, len(order)):
        common = num_common(documents[order[place - 1]], documents[order[place]])
        shared[place] = common if common >= MIN_SHARED_LENGTH else 0
    return order, shared


def num_common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Tokens with which both begin."""
    shorter = min(len(one), len(other))
    differs = one[:shorter] != other[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def make_forest(tokens: NDArray[np.int64], boundaries: Sequence[int]) -> Forest | None:
    """The forest of documents that lie end to end; None where no two begin alike.

    Args:
        tokens: int64 [T]
        boundaries: D + 1 numbers: document d holds tokens boundaries[d] to boundaries[d + 1] - 1.
    """
    starts, stops = boundaries[:-1], boundaries[1:]
    documents = [tokens[start:stop] for start, stop in zip(starts, stops, strict=True)]
    order, shared = common_beginnings(documents)
    if not any(shared):
        return None
    return _laid(order, shared, [len(document) for document in documents], starts)


class _Open(NamedTuple):
    """A segment of which it isn't known yet what continues it."""

    depth: int
    """Tokens above it."""
    start: int
    stop: int


def _laid(
    order: Sequence[int], shared: Sequence[int], lengths: Sequence[int], starts: Sequence[int]
) -> Forest:
    num_rows = sum(lengths) - sum(shared)
    chosen = np.empty(num_rows, dtype=np.int64)
    rows = np.empty(sum(lengths), dtype=np.int64)
    closed: list[Segment] = []
    path: list[_Open] = []
    row = 0
    for document, common in zip(order, shared, strict=True):
        _climb(path, closed, common, row)
        own = lengths[document] - common
        if own:
            path.append(_Open(depth=common, start=row, stop=row + own))
            first = starts[document] + common
            chosen[row : row + own] = np.arange(first, first + own)
            row += own
        place = starts[document]
        for segment in path:
            size = segment.stop - segment.start
            rows[place : place + size] = np.arange(segment.start, segment.stop)
            place += size
    _climb(path, closed, 0, row)
    return Forest(segments=tuple(sorted(closed)), tokens=chosen, rows=rows)


def _climb(path: list[_Open], closed: list[Segment], depth: int, row: int) -> None:
    """Ends what lies below `depth`: everything that continues it stands before `row`."""
    while path and path[-1].depth >= depth:
        _, start, stop = path.pop()
        closed.append(Segment(start=start, stop=stop, last=row))
    if path and path[-1].depth + path[-1].stop - path[-1].start > depth:
        above, start, stop = path.pop()
        middle = start + depth - above
        closed.append(Segment(start=middle, stop=stop, last=row))
        path.append(_Open(depth=above, start=start, stop=middle))
