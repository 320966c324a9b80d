"""Units of a store -> the flat batches of one process in one optimizer step."""

from __future__ import annotations

from framework.core.batch import Batch, Encoded
from framework.data.store import Store
from framework.engine.order import Order
from framework.models.collate import flat_batch


def step_batches(
    store: Store,
    order: Order,
    step: int,
    *,
    rank: int,
    num_processes: int,
    micro_batch_size: int,
) -> list[Batch]:
    """The micro-batches of `rank`; every rank has as many."""
    passes = order.micro_batches(
        step, rank=rank, num_processes=num_processes, micro_batch_size=micro_batch_size
    )
    return [_batch(store, [int(unit) for unit in units]) for units in passes]


def sample_ids(store: Store, order: Order, step: int) -> list[str]:
    """The samples of that step over all processes, in the order in which they are dealt out."""
    units = order.global_batch(step)
    return [store.sample_id(int(one)) for unit in units for one in store.unit(int(unit))]


def _batch(store: Store, units: list[int]) -> Batch:
    samples = [int(one) for unit in units for one in store.unit(unit)]
    if not samples:
        # The last step of an epoch may leave a rank without samples; it still takes part in the
        # collectives, with a token that is no label and adds nothing to the loss.
        return flat_batch([Encoded(tokens=(0,), trained=(False,))], [])
    documents = [document for one in samples for document in store.features(one).documents]
    return flat_batch(documents, [store.sample_id(one) for one in samples])
