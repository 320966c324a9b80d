"""Learning rate that falls with the square root of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class InverseSqrt:
    """Falls with one over the square root of the step after the warmup."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from transformers import get_inverse_sqrt_schedule

        return get_inverse_sqrt_schedule(optimizer, warmup_steps)
