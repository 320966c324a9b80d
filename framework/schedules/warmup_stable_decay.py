"""Learning rate that stays, then falls at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Stays at its peak after the warmup and falls in the last part of the run (WSD)."""

    decay_ratio: float = setting(0.1, above=0, at_most=1)
    """Share of the steps in which it falls; at most what the warmup leaves."""
    decay_type: Literal["linear", "cosine", "1-sqrt"] = "cosine"
    """Shape of the fall."""
    min_lr_ratio: float = setting(0.0, at_least=0, below=1)
    """Where it ends, and the warmup starts, as a share of the peak."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from framework.update_rules.warmup import after_warmup, passed

        decay_steps = max(1, min(round(self.decay_ratio * num_steps), num_steps - warmup_steps))
        first = num_steps - decay_steps

        def share(step: int) -> float:
            if step < first:
                return 1.0
            if step >= num_steps:
                return self.min_lr_ratio
            factor = _LEFT[self.decay_type](passed(step, first, num_steps))
            return max(0.0, factor * (1.0 - self.min_lr_ratio) + self.min_lr_ratio)

        return after_warmup(optimizer, warmup_steps, share, self.min_lr_ratio)


_LEFT: Mapping[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "1-sqrt": lambda done: 1.0 - math.sqrt(done),
}
"""Shape -> what is left of the way down, by how much of the time is over."""
