"""The model and held-out data -> evaluation loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch.nn import Module

from framework.core.batch import Policy
from framework.core.protocols.training import Summarising, Trainer
from framework.data.store import Store
from framework.data.units import StoredUnit
from framework.distributed.collectives import data_share, sum_over_data
from framework.distributed.totals import Totals
from framework.engine.batches import batch_of
from framework.models.collate import on_device
from framework.planning.passes import PassSize


def evaluation_metrics(
    accelerator: Accelerator,
    model: Module,
    policy: Policy,
    reference: Policy | None,
    method: Trainer,
    store: Store,
    pass_size: PassSize,
) -> Mapping[str, float]:
    """Means over all items of `store`, computed by all processes together: `loss` and the
    trainer's metrics."""
    rank, size = data_share(accelerator)
    totals, num_items = Totals(), 0.0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        # Every process sees as many batches: those without samples say which metrics there are.
        for numbers in pass_size.in_turn(store.num_units, size):
            units = [StoredUnit(store, number) for number in numbers]
            for share in pass_size.deal([unit.num_tokens for unit in units], size)[rank]:
                batch = on_device(batch_of([units[at] for at in share]), accelerator.device)
                totals.add(method.loss(policy, reference, batch))
                num_items += method.num_items(batch)
    model.train(was_training)
    (total_items,) = sum_over_data(accelerator, [num_items])
    return summarised(method, totals.means(accelerator, total_items))


def summarised(method: Trainer, means: Mapping[str, float]) -> Mapping[str, float]:
    """What a trainer reports, of the means of its sums."""
    return method.summarised(means) if isinstance(method, Summarising) else means
