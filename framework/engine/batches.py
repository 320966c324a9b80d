"""Units -> the flat batch of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from framework.core.batch import Batch
from framework.data.units import Unit, ids_of
from framework.models.collate import flat_batch


def batch_of(units: Sequence[Unit]) -> Batch:
    """The flat batch of one forward pass."""
    return flat_batch([one for unit in units for one in unit.features], ids_of(units))


def places_of(units: Sequence[Unit]) -> list[range]:
    """Where the samples of each unit of a global batch stand in it."""
    ends = accumulate(unit.num_samples for unit in units)
    return [range(start, end) for start, end in pairwise((0, *ends))]
