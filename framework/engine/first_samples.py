"""Prepared data -> its first batches, for an adapter that starts from what the model makes of them.

Every process reads the same ones.
"""

from __future__ import annotations

from framework.core.batch import Batch, Features
from framework.data.prepared import PreparedData
from framework.engine.feed import make_feed
from framework.models.collate import flat_batch, on_device
from framework.planning.plan import Plan


def first_batches(plan: Plan, data: PreparedData, num_samples: int) -> list[Batch]:
    """The samples that training begins with, in rows of about `data.max_length` tokens, on the
    device; at most one epoch of them."""
    feed = make_feed(data.train, plan.recipe.trainer)
    size = plan.recipe.trainer.global_batch_size
    found: list[tuple[Features, str]] = []
    for step in range(-(-data.train.num_units // size)):
        units = feed.global_batch(step)
        found += [
            pair for unit in units for pair in zip(unit.features, unit.sample_ids, strict=True)
        ]
        if len(found) >= num_samples:
            break
    rows: list[list[tuple[Features, str]]] = [[]]
    for pair in found[:num_samples]:
        if _length(rows[-1]) >= plan.recipe.data.max_length:
            rows.append([])
        rows[-1].append(pair)
    if len(rows) > 1 and _length(rows[-1]) < plan.recipe.data.max_length:
        rows[-2] += rows.pop()
    return [
        on_device(
            flat_batch([features for features, _ in row], [name for _, name in row]),
            plan.world.torch_device,
        )
        for row in rows
    ]


def _length(row: list[tuple[Features, str]]) -> int:
    return sum(features.num_tokens for features, _ in row)
