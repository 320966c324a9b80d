"""Learning rate that stays, then falls at the end."""

from __future__ import annotations

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
        from transformers import get_wsd_schedule

        return get_wsd_schedule(
            optimizer,
            num_warmup_steps=warmup_steps,
            num_decay_steps=max(
                1, min(round(self.decay_ratio * num_steps), num_steps - warmup_steps)
            ),
            num_training_steps=num_steps,
            decay_type=self.decay_type,
            min_lr_ratio=self.min_lr_ratio,
        )
