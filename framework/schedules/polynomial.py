"""Learning rate that falls along a polynomial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """Falls along a polynomial after the warmup."""

    power: float = setting(2.0, above=0)
    """Exponent: 1 is a straight line, above 1 falls early."""
    lr_end: float = setting(1e-7, above=0)
    """Learning rate at the end; below the peak. Groups with another peak end at the same share."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """It falls."""
        peak = recipe.trainer.learning_rate
        if self.lr_end >= peak:
            yield Problem(
                key=".lr_end",
                what=f"{self.lr_end:g} is not below learning_rate {peak:g}",
                hint=f"write lr_end: {peak / 100:g}",
            )

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """See `protocols.Schedule`."""
        from framework.update_rules.warmup import after_warmup, passed

        peak = optimizer.defaults["lr"]

        def share(step: int) -> float:
            if step > num_steps:
                return self.lr_end / peak
            left = 1 - passed(step, warmup_steps, num_steps)
            return ((peak - self.lr_end) * left**self.power + self.lr_end) / peak

        return after_warmup(optimizer, warmup_steps, share)
