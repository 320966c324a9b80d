"""Adafactor of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor: second moments as rows and columns, little memory (Shazeer and Stern, 2018).

    Steps are as large as the learning rate times the root mean square of each tensor, so rates are
    larger than AdamW's: 1e-3 to 1e-2.
    """

    beta2_decay: float = setting(-0.8, below=0)
    """Exponent of the growing decay of squared gradients."""
    clip_threshold: float = setting(1.0, above=0)
    """Root mean square to which an update is clipped."""

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        import torch

        return torch.optim.Adafactor(
            [dict(group) for group in groups],
            lr=learning_rate,
            beta2_decay=self.beta2_decay,
            d=self.clip_threshold,
        )
