"""Stochastic gradient descent of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    momentum: float = setting(0.0, at_least=0, below=1)
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's momentum; needs `momentum` above 0."""

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        import torch

        return torch.optim.SGD(
            [dict(group) for group in groups],
            lr=learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
