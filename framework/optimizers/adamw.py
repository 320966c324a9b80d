"""AdamW of PyTorch, fused where the device can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW, decoupled weight decay (Loshchilov and Hutter, 2019); PyTorch's fused kernel."""

    steps_numbers_apart: ClassVar[bool] = True

    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the running mean of gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of squared gradients."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        import torch

        return torch.optim.AdamW(
            [dict(group) for group in groups],
            lr=learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            fused=True,
        )
