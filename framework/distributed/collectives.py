"""What one process knows -> what all do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from framework.core.spans import span


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
def from_main(value: Any) -> Any:
    """The main process's value, on every process; those of others don't count."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]
