"""What one process knows -> what all do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from framework.core.spans import span


class DataShare(NamedTuple):
    """Which part of the data a process has."""

    rank: int
    """Its number, from 0."""
    size: int
    """How many parts there are."""


def data_share(accelerator: Accelerator) -> DataShare:
    """This process's; those that compute layers or rows together have the same."""
    config = accelerator.parallelism_config
    together = 1 if config is None else config.non_data_parallel_size
    return DataShare(accelerator.process_index // together, accelerator.num_processes // together)


def token_share(accelerator: Accelerator) -> int:
    """Number of those of the data's tokens that this process computes, from 0; those that compute
    layers together have the same."""
    config = accelerator.parallelism_config
    together = 1 if config is None else config.tp_size
    assert isinstance(together, int)
    return accelerator.process_index // together


def sum_over_data(accelerator: Accelerator, values: Iterable[Tensor | float]) -> list[float]:
    """`sum_over_processes` of what is counted of data: the same data counts once."""
    copies = accelerator.num_processes // data_share(accelerator).size
    return [value / copies for value in sum_over_processes(accelerator, values)]


@span("communication")
def sum_over_processes(accelerator: Accelerator, values: Iterable[Tensor | float]) -> list[float]:
    """Each number summed over the processes, in float64; every process gets the sums.

    Of a tensor, every number is one of them.
    """
    if accelerator.num_processes == 1:
        return [number for value in values for number in _numbers(value)]
    device = accelerator.device
    local = torch.cat(
        [torch.as_tensor(value, dtype=torch.float64, device=device).flatten() for value in values]
    )
    total = accelerator.reduce(local, "sum")
    assert isinstance(total, Tensor)
    return total.tolist()


def _numbers(value: Tensor | float) -> list[float]:
    return value.flatten().tolist() if isinstance(value, Tensor) else [float(value)]


@span("communication")
def broadcast_object(value: Any) -> Any:
    """The main process's value, on every process; those of others don't count."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]
