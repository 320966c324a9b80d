"""Units of a global batch -> the flat batches of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from framework.core.batch import Batch, Encoded
from framework.data.units import Unit, ids_of
from framework.models.collate import flat_batch

Item = TypeVar("Item")


def micro_batches(
    units: Sequence[Unit],
    *,
    rank: int,
    num_processes: int,
    micro_batch_size: int,
    global_batch_size: int,
) -> list[Batch]:
    """What `rank` sees of a global batch, one for each forward pass; every rank has as many."""
    shares = deal(
        units,
        rank=rank,
        num_processes=num_processes,
        micro_batch_size=micro_batch_size,
        global_batch_size=global_batch_size,
    )
    return [_batch(share) for share in shares]


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


def _batch(units: Sequence[Unit]) -> Batch:
    documents = [document for unit in units for document in unit.documents]
    if not documents:
        # The last step of an epoch may leave a rank without samples; it still takes part in the
        # collectives, with a token that is no label and adds nothing to the loss.
        return flat_batch([Encoded(tokens=(0,), trained=(False,))], [])
    return flat_batch(documents, ids_of(units))
