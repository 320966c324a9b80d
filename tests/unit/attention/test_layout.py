"""How rows are grouped: every row once as a query, and as a key for all that see it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from framework.attention.flat_attention import forest_attention
from framework.attention.layout import MOST_WAITING, documents_layout, forest_layout
from framework.core.batch import Segment

HEADS, KEY_HEADS = 2, 1
LONG = 300
FOREST = (
    Segment(0, 40, 500),
    Segment(40, 50, 250),
    Segment(50, 250, 250),
    Segment(250, 500, 500),
    Segment(500, 800, 800),
)
"""A beginning of 40 tokens that two continue, one of them on a beginning of its own; one alone."""


def seen_by(layout, num_rows):
    """How often each row of queries is computed, and each row of keys is seen."""
    queries, keys = Counter(), Counter()
    for group in layout.groups:
        real = torch.ones(len(group.query_rows), dtype=torch.bool)
        real[group.query_padding] = False
        queries.update(group.query_rows[real].tolist())
    parts = iter([group.key_rows for group in layout.groups])
    for sums in layout.key_sums:
        rows = torch.cat([next(parts) for _ in range(sums.num_parts)])
        ends = torch.arange(num_rows + 1) if sums.starts is None else None
        starts = sums.starts if ends is None else ends[:-1]
        stops = torch.cat([starts[1:], torch.tensor([len(sums.places)])])
        for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            assert (rows[sums.places[start:stop]] == row).all()
            keys[row] += stop - start
    return queries, keys


def test_every_row_is_computed_once_and_seen_by_the_pieces_after_it():
    layout = forest_layout(FOREST, HEADS, KEY_HEADS)
    queries, keys = seen_by(layout, 800)
    assert queries == Counter(range(800 * HEADS))
    # 40 rows; 10 and two pieces of 200; two of 250; three of 300, the last with what is left over.
    assert keys[0] == 1 + 1 + 2 + 2
    assert keys[40] == 1 + 2
    assert (keys[50], keys[249]) == (2, 1)
    assert (keys[250], keys[499]) == (2, 1)
    assert (keys[500], keys[799]) == (2, 1)


def test_gradients_that_wait_are_bounded():
    segments = (Segment(0, 100, 740), *(Segment(a, a + 64, a + 64) for a in range(100, 740, 64)))
    layout = forest_layout(segments, 64, KEY_HEADS)
    assert len(layout.key_sums) == 1
    many = (Segment(0, 2000, 2320), *(Segment(a, a + 16, a + 16) for a in range(2000, 2320, 16)))
    layout = forest_layout(many, 64, KEY_HEADS)
    assert len(layout.key_sums) > 1
    groups = iter(layout.groups)
    for sums in layout.key_sums:
        rows = sum(len(next(groups).key_rows) for _ in range(sums.num_parts))
        assert rows <= MOST_WAITING * 2320


def test_long_documents_follow_the_groups():
    layout = documents_layout((20, LONG, 30), HEADS, KEY_HEADS, LONG - 1)
    assert layout.long == (slice(20, 20 + LONG),)
    assert layout.key_sums[-1].num_parts == len(layout.groups) + 1
    assert sorted(layout.query_order.tolist()) == sorted(set(layout.query_order.tolist()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_a_beginning_are_added_up_in_float32(dtype):
    """1,024 documents continue one token, whose value each sees with half of its weight."""
    count = 1024
    segments = (Segment(0, 1, count + 1), *(Segment(a, a + 1, a + 1) for a in range(1, count + 1)))
    query = torch.zeros(count + 1, 1, 8, dtype=dtype)
    key = torch.zeros_like(query)
    value = torch.zeros_like(query).requires_grad_()
    forest_attention(query, key, value, segments, 1.0).sum().backward()
    # 1 of its own and halves: in 16 bits the sum would stop growing.
    assert value.grad is not None
    assert value.grad[0].tolist() == [[pytest.approx(1 + count / 2, rel=0.005)] * 8]
