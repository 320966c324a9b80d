"""Learning rate that falls late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class Rex:
    """Falls slowly at first, ever faster after the warmup (REX, Chen et al., 2021)."""

    min_lr_ratio: float = setting(0.0, at_least=0, below=1)
    """Where it ends, as a share of the peak."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from torch.optim.lr_scheduler import LambdaLR

        def share(step: int) -> float:
            if step < warmup_steps:
                return step / warmup_steps
            done = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
            # (1 - z) / (1/2 + 1/2 (1 - z)), of the way from the peak to the minimum.
            fallen = (1 - done) / (0.5 + 0.5 * (1 - done))
            return self.min_lr_ratio + (1 - self.min_lr_ratio) * fallen

        return LambdaLR(optimizer, share)
