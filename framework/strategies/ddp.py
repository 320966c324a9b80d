"""Every process holds the whole model and a part of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class DDP:
    """Data parallel: the whole model on every device, gradients averaged (one device: plain)."""

    def accelerator(self, mixed_precision: str) -> Accelerator:
        """See `protocols.Strategy`."""
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # Gradients live in the buckets that are communicated: one copy of them less.
        handler = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
        return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[handler])

    def save_state(
        self, accelerator: Accelerator, model: Module, optimizer: Optimizer, folder: Path
    ) -> None:
        """See `protocols.Strategy`."""
        from framework.models.state import save_optimizer, save_trained_weights

        if accelerator.is_main_process:
            save_trained_weights(accelerator.unwrap_model(model), folder)
            save_optimizer(optimizer, folder)

    def load_state(
        self, accelerator: Accelerator, model: Module, optimizer: Optimizer, folder: Path
    ) -> None:
        """See `protocols.Strategy`."""
        from framework.models.state import load_optimizer, load_trained_weights

        load_trained_weights(accelerator.unwrap_model(model), folder)
        load_optimizer(optimizer, folder)
