"""Numbers of one process -> numbers of all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor


def sum_over_processes(accelerator: Accelerator, values: Iterable[Tensor | float]) -> list[float]:
    """Each value summed over the processes, in float64; every process gets the sums."""
    if accelerator.num_processes == 1:
        return [float(value) for value in values]
    device = accelerator.device
    local = torch.stack(
        [torch.as_tensor(value, dtype=torch.float64, device=device) for value in values]
    )
    total = accelerator.reduce(local, "sum")
    assert isinstance(total, Tensor)
    return total.tolist()
