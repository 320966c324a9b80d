"""Axes have a few round numbers on them, and show every number in its place."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.reports.drawing import bars, drawing, linear_axis, logarithmic_axis

NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9)


def axis(numbers, **settings):
    return linear_axis(numbers, str, **{"margins": (0.05, 0.1), "most_ticks": 5, **settings})


@given(numbers=NUMBERS)
def test_an_axis_shows_all_numbers_between_its_ends_and_labels_a_few(numbers) -> None:
    found = axis(numbers)
    shares = [found.share(number) for number in sorted(numbers)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares == sorted(shares)
    assert 2 <= len(found.ticks) <= 6
    assert all(-1e-6 <= found.share(tick) <= 1 + 1e-6 for tick in found.ticks)


@pytest.mark.parametrize(
    ("numbers", "whole", "ticks"),
    [
        ([0, 10], False, [0, 2.5, 5, 7.5, 10]),
        ([5.7, 5.9], False, [5.7, 5.75, 5.8, 5.85, 5.9]),
        ([-3, 4], False, [-2, 0, 2, 4]),
        ([1, 3], True, [1, 2, 3]),
        ([1, 12000], True, [0, 5000, 10000]),
        ([7], True, [7]),
        ([0.25], False, [0.24, 0.25, 0.26]),
    ],
)
def test_labels_are_round(numbers, whole, ticks) -> None:
    found = axis(numbers, whole=whole, margins=(0.01, 0.01))
    assert found.ticks == pytest.approx(ticks)


def test_powers_of_ten_are_as_far_from_each_other() -> None:
    found = logarithmic_axis([0.02, 3000], str, margin=0.01, most_ticks=6)
    assert found.ticks == pytest.approx([0.1, 1, 10, 100, 1000])
    shares = [found.share(tick) for tick in found.ticks]
    steps = [later - earlier for earlier, later in itertools.pairwise(shares)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert 0 < found.share(0.02) < found.share(3000) < 1
    assert len(logarithmic_axis([1e-9, 1e9], str, margin=0.1, most_ticks=5).ticks) <= 5


def test_what_is_drawn_lies_on_the_line_of_its_label() -> None:
    x = axis([0, 4], whole=True, margins=(0, 0))
    y = axis([0, 10], margins=(0, 0))
    svg = drawing("a & b", 420, 210, x, y, lambda x, y: [bars([(x(1), y(4), x(2), y(0))], "red")])
    grid, box = re.findall(r'<path d="([^"]*)"', svg)[:2]
    lines = [float(number) for number in re.findall(r"M\S+ (\S+?)H", grid)]
    left, top, right, bottom, _ = (float(one) for one in re.findall(r"[\d.]+", box))
    assert (top, bottom) == (lines[2], lines[0])
    places = [float(one) for one in re.findall(r'<text x="(\S+)" y="205', svg)]
    assert (left, right) == (places[1], places[2])
    assert 'aria-label="a &amp; b"' in svg
