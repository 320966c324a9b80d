"""Learning rate that falls along half a cosine."""

from __future__ import annotations

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
        from transformers import get_cosine_with_min_lr_schedule_with_warmup

        return get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup_steps, num_steps, min_lr_rate=self.min_lr_ratio
        )
