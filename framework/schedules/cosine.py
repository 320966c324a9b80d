"""Learning rate that falls along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Falls along half a cosine after the warmup, to zero or to a minimum."""

    min_lr_ratio: float = setting(0.0, at_least=0, below=1)
    """Where it ends, as a share of the peak."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from framework.update_rules.warmup import after_warmup, passed

        def share(step: int) -> float:
            fallen = 0.5 * (1.0 + math.cos(math.pi * passed(step, warmup_steps, num_steps)))
            return max(0.0, fallen * (1 - self.min_lr_ratio) + self.min_lr_ratio)

        return after_warmup(optimizer, warmup_steps, share)
