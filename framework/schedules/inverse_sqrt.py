"""Learning rate that falls with the square root of the step."""

from __future__ import annotations

import math
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
        from framework.update_rules.warmup import after_warmup

        # Without a warmup it begins as if there had been one of so many steps.
        scale = warmup_steps or 10_000

        def share(step: int) -> float:
            return 1.0 / math.sqrt((step + scale - warmup_steps) / scale)

        return after_warmup(optimizer, warmup_steps, share)
