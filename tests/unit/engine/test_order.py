"""Which units a step sees is a function of seed, epoch and data, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.engine.order import Order
from framework.planning.passes import PassSize


def order(**settings) -> Order:
    defaults = {"stage_ends": (21,), "global_batch_size": 8, "seed": 3, "data_fingerprint": "a"}
    return Order(**{**defaults, **settings})


def epoch_of(an_order: Order, epoch: int) -> list[int]:
    first = epoch * an_order.steps_per_epoch
    steps = range(first, first + an_order.steps_per_epoch)
    return [int(unit) for step in steps for unit in an_order.global_batch(step)]


def test_an_epoch_holds_every_unit_once_and_the_next_in_another_order():
    assert sorted(epoch_of(order(), 0)) == list(range(21))
    assert sorted(epoch_of(order(), 1)) == list(range(21))
    assert epoch_of(order(), 0) != epoch_of(order(), 1)


@pytest.mark.parametrize("other", [{"seed": 4}, {"data_fingerprint": "b"}])
def test_seed_and_data_decide_the_order(other):
    assert epoch_of(order(), 0) == epoch_of(order(), 0)
    assert epoch_of(order(), 0) != epoch_of(order(**other), 0)


def test_the_order_is_the_same_on_every_machine_and_version():
    """Golden: a change of this list breaks every resume across versions."""
    assert epoch_of(order(stage_ends=(10,)), 0) == [6, 1, 9, 7, 5, 4, 0, 2, 8, 3]


@given(
    num_units=st.integers(1, 50),
    micro_batch_size=st.integers(1, 3),
    num_processes=st.integers(1, 4),
    num_accumulation_steps=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
def test_processes_share_each_global_batch_without_loss_or_overlap(
    num_units, micro_batch_size, num_processes, num_accumulation_steps, epoch
):
    size = micro_batch_size * num_processes * num_accumulation_steps
    an_order = order(stage_ends=(num_units,), global_batch_size=size)
    for within in range(an_order.steps_per_epoch):
        step = epoch * an_order.steps_per_epoch + within
        batch = an_order.global_batch(step).tolist()
        passes = PassSize(num_units=micro_batch_size).deal([1] * len(batch), num_processes)
        assert len(passes) == num_processes
        assert len({len(of_rank) for of_rank in passes}) == 1
        assert all(len(part) <= micro_batch_size for of_rank in passes for part in of_rank)
        # As they follow each other: the first pass of all processes, then the second.
        turns = [part for turn in zip(*passes, strict=True) for part in turn]
        assert [batch[at] for part in turns for at in part] == batch
        assert any(len(of_rank[-1]) for of_rank in passes)


def test_a_global_batch_does_not_depend_on_how_it_is_split():
    batches = [order().global_batch(step) for step in range(6)]
    assert [len(batch) for batch in batches] == [8, 8, 5, 8, 8, 5]
    assert np.array_equal(batches[1], order().global_batch(1))


def test_units_are_shuffled_within_their_stage_and_stages_keep_their_order():
    units = epoch_of(order(stage_ends=(8, 13, 21)), 0)
    assert [sorted(units[:8]), sorted(units[8:13]), sorted(units[13:])] == [
        list(range(8)),
        list(range(8, 13)),
        list(range(13, 21)),
    ]
    assert units[:8] != list(range(8))
