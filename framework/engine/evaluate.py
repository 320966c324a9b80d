"""The model and held-out data -> evaluation loss."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.nn import Module

from framework.core.batch import Policy
from framework.core.protocols import Trainer
from framework.data.store import Store
from framework.engine.collectives import sum_over_processes
from framework.models.collate import flat_batch, on_device


def evaluation_loss(
    accelerator: Accelerator,
    model: Module,
    policy: Policy,
    method: Trainer,
    store: Store,
    micro_batch_size: int,
) -> float:
    """Mean loss over all trained tokens of `store`, computed by all processes together."""
    rank, size = accelerator.process_index, accelerator.num_processes
    loss_sum, num_items = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        starts = range(rank * micro_batch_size, store.num_units, size * micro_batch_size)
        for start in starts:
            stop = min(start + micro_batch_size, store.num_units)
            samples = [int(one) for unit in range(start, stop) for one in store.unit(unit)]
            documents = [d for one in samples for d in store.features(one).documents]
            ids = [store.sample_id(one) for one in samples]
            batch = on_device(flat_batch(documents, ids), accelerator.device)
            loss = method.loss(policy, None, batch)
            loss_sum += loss.sum.item()
            num_items += loss.num_items
    model.train(was_training)
    total_loss, total_items = sum_over_processes(accelerator, [loss_sum, num_items])
    return total_loss / max(total_items, 1)
