"""Packs hold every sample once, never too much, and little room is left over."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from framework.data.pack import pack


def packed(lengths, capacity):
    packs = pack(lengths, capacity)
    return [members.tolist() for members in np.split(packs.members, packs.ends[:-1])]


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200), st.integers(64, 200))
def test_every_sample_is_in_one_pack_and_no_pack_overflows(lengths, capacity):
    packs = packed(lengths, capacity)
    assert sorted(index for one in packs for index in one) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in one) <= capacity for one in packs)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200), st.integers(64, 200))
def test_no_two_packs_could_be_one(lengths, capacity):
    """Best fit leaves at most one pack half empty."""
    sums = sorted(sum(lengths[index] for index in one) for one in packed(lengths, capacity))
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_a_known_case_is_packed_as_by_hand():
    assert packed([5, 7, 3, 5, 2], 10) == [[1, 2], [0, 3], [4]]


def test_short_and_long_samples_fill_packs_nearly_completely():
    lengths = np.random.default_rng(0).lognormal(4.5, 0.8, 20_000).astype(int).clip(4, 2048)
    packs = pack(lengths, 2048)
    assert lengths.sum() / (len(packs) * 2048) > 0.99


def test_nothing_makes_no_packs():
    assert len(pack([], 10)) == 0
