"""Every process holds the whole model and a part of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.protocols.sharding import Shares
from framework.core.protocols.strategies import Setup, Spread

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class DDP:
    """Data parallel: the whole model on every device, gradients averaged (one device: plain)."""

    keeps_parameters_whole: ClassVar[bool] = True
    parts_are_parameters: ClassVar[bool] = True

    def accelerator(self, setup: Setup) -> Accelerator:
        """See `protocols.Strategy`."""
        from accelerate import DistributedDataParallelKwargs

        from framework.distributed.accelerators import new_accelerator

        # Gradients live in the buckets that are communicated: one copy of them less. Buffers never
        # change, and a process may do more forward passes than another.
        handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
            find_unused_parameters=setup.parameters_change,
        )
        scaled = "fp16" if setup.autocast_dtype == "float16" else "no"
        return new_accelerator(scaled, [handler])

    def spread(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
    ) -> Spread:
        """See `protocols.Strategy`."""
        from framework.distributed.replicated import Replicated

        return Replicated(accelerator, model, build_optimizer)

    def shares(self, num_processes: int, *, weights_dtype: str, products_dtype: str) -> Shares:
        """See `protocols.Sharding`: everything on each device, gradients in buckets."""
        return Shares(keeps_gradients=num_processes > 1)
