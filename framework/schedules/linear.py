"""Learning rate that falls in a straight line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Falls in a straight line to zero after the warmup."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from framework.update_rules.warmup import after_warmup

        def share(step: int) -> float:
            return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))

        return after_warmup(optimizer, warmup_steps, share)
