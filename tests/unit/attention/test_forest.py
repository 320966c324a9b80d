"""Documents laid so that each common beginning stands once."""

from __future__ import annotations

import random
from itertools import accumulate

import numpy as np
import pytest

from framework.attention import forest
from framework.attention.forest import make_forest


def laid(documents: list[list[int]]):
    boundaries = [0, *accumulate(map(len, documents))]
    return make_forest(np.concatenate([np.array(one) for one in documents]), boundaries), boundaries


def rows_in_sight(segments, row: int) -> list[int]:
    """What attention lets a row see: ancestors' rows, and its own segment's up to itself."""
    above = [s for s in segments if s.stop <= row < s.last]
    (own,) = [s for s in segments if s.start <= row < s.stop]
    seen = [number for one in above for number in range(one.start, one.stop)]
    return [*seen, *range(own.start, row + 1)]


@pytest.mark.parametrize("seed", range(40))
def test_every_token_sees_its_own_document_and_nothing_else(seed, monkeypatch):
    monkeypatch.setattr(forest, "MIN_SHARED_LENGTH", 1)
    draw = random.Random(seed)
    documents = [
        [draw.randint(0, 1) for _ in range(draw.randint(1, 12))] for _ in range(draw.randint(3, 9))
    ]
    found, boundaries = laid(documents)
    assert found is not None, "of three that begin with 0 or 1, two begin alike"
    tokens = np.concatenate([np.array(one) for one in documents])
    beginnings = {tuple(one[:end]) for one in documents for end in range(1, len(one) + 1)}
    assert len(found.tokens) == len(beginnings)
    for document, start in zip(documents, boundaries[:-1], strict=True):
        rows = found.rows[start : start + len(document)].tolist()
        assert tokens[found.tokens[rows]].tolist() == document
        for place, row in enumerate(rows):
            assert rows_in_sight(found.segments, row) == rows[: place + 1]


def test_short_common_beginnings_are_left_alone():
    length = forest.MIN_SHARED_LENGTH
    assert laid([[7] * (length - 1) + [1], [7] * (length - 1) + [2]])[0] is None
    found, _ = laid([[7] * length + [1], [7] * length + [2]])
    assert found is not None
    assert len(found.tokens) == length + 2
