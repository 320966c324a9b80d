"""Units of a global batch -> the flat batches of one process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

from framework.core.batch import Batch
from framework.data.units import Unit, ids_of
from framework.models.collate import flat_batch

Item = TypeVar("Item")


def batch_of(units: Sequence[Unit]) -> Batch:
    """The flat batch of one forward pass."""
    return flat_batch([one for unit in units for one in unit.features], ids_of(units))


def places_of(units: Sequence[Unit]) -> list[range]:
    """Where the samples of each unit of a global batch stand in it."""
    ends = accumulate(unit.num_samples for unit in units)
    return [range(start, end) for start, end in pairwise((0, *ends))]


def deal(
    batch: Sequence[Item],
    *,
    rank: int,
    num_processes: int,
    micro_batch_size: int,
    global_batch_size: int,
) -> list[Sequence[Item]]:
    """The items of `rank`, for each forward pass; some passes may be empty.

    Every rank gets the same number of passes, so that their collectives meet.
    """
    per_pass = micro_batch_size * num_processes
    starts = range(0, global_batch_size, per_pass)
    first = rank * micro_batch_size
    passes = [batch[start + first : start + first + micro_batch_size] for start in starts]
    while len(passes) > 1 and starts[len(passes) - 1] >= len(batch):
        passes.pop()  # no rank has anything in this pass
    return passes
