"""Share of the peak at each step -> a learning rate that rises to it first."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def after_warmup(
    optimizer: Optimizer,
    warmup_steps: int,
    share: Callable[[int], float],
    start: float = 0.0,
) -> LambdaLR:
    """Rises in a line, then follows `share`; the schedules are those of transformers, bit for bit,
    whose module of them loads its Trainer and, with that, peft.

    Args:
        share: of the peak, by optimizer step, from `warmup_steps` on.
        start: where the rise begins, as a share of the peak.
    """

    def at(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps * (1.0 - start) + start
        return share(step)

    return LambdaLR(optimizer, at)


def passed(step: int, first: int, last: int) -> float:
    """How much of the way from one step to another is behind, from 0 to 1 and on."""
    return (step - first) / max(1, last - first)
