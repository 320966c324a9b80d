"""The model and held-out data -> evaluation loss and metrics."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch.nn import Module

from framework.core.batch import Policy
from framework.core.protocols.training import Summarising, Trainer
from framework.data.store import Store
from framework.distributed.collectives import data_share, sum_over_data
from framework.distributed.totals import Totals
from framework.models.collate import flat_batch, on_device


def evaluation_metrics(
    accelerator: Accelerator,
    model: Module,
    policy: Policy,
    reference: Policy | None,
    method: Trainer,
    store: Store,
    micro_batch_size: int,
) -> Mapping[str, float]:
    """Means over all items of `store`, computed by all processes together: `loss` and the
    trainer's metrics."""
    rank, size = data_share(accelerator)
    totals, num_items = Totals(), 0.0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        # Every process sees as many batches: those without samples say which metrics there are.
        for first in range(0, store.num_units, size * micro_batch_size):
            start = first + rank * micro_batch_size
            units = range(store.num_units)[start : start + micro_batch_size]
            samples = [int(one) for unit in units for one in store.unit(unit)]
            features = [store.features(one) for one in samples]
            ids = [store.sample_id(one) for one in samples]
            batch = on_device(flat_batch(features, ids), accelerator.device)
            totals.add(method.loss(policy, reference, batch))
            num_items += method.num_items(batch)
    model.train(was_training)
    (total_items,) = sum_over_data(accelerator, [num_items])
    return summarised(method, totals.means(accelerator, total_items))


def summarised(method: Trainer, means: Mapping[str, float]) -> Mapping[str, float]:
    """What a trainer reports, of the means of its sums."""
    return method.summarised(means) if isinstance(method, Summarising) else means
