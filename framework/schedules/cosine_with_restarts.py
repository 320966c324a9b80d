"""Learning rate that falls along half a cosine several times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class CosineWithRestarts:
    """Falls to zero along half a cosine and starts again at the peak (Loshchilov and Hutter, 2017).

    All falls are equally long; the warmup comes before the first alone.
    """

    num_cycles: int = setting(2, at_least=1)
    """How often it falls."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from framework.update_rules.warmup import after_warmup, passed

        def share(step: int) -> float:
            done = passed(step, warmup_steps, num_steps)
            if done >= 1.0:
                return 0.0
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((self.num_cycles * done) % 1.0))))

        return after_warmup(optimizer, warmup_steps, share)
