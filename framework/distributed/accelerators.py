"""Precision of gradients -> the accelerate object of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import KwargsHandler


def new_accelerator(
    mixed_precision: str,
    handlers: Sequence[KwargsHandler] = (),
    tensor_parallel_size: int = 1,
    sequence_parallel_size: int = 1,
) -> Accelerator:
    """What this process and those that were started with it are to accelerate.

    One process may do several runs, one after the other; accelerate would have all of them in the
    precision of the first.

    Args:
        mixed_precision: `no`, `fp16` or `bf16`.
        handlers: settings of what accelerate makes.
        tensor_parallel_size: processes that compute each layer together, from the same data; they
            follow each other.
        sequence_parallel_size: processes that compute each row together, a slice each; the same.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=list(handlers))
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate 1.15 scales float16 gradients on everything but CPUs, where the small ones
        # vanish as well.
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    together = tensor_parallel_size * sequence_parallel_size
    if together > 1:
        from accelerate.parallelism_config import ParallelismConfig

        # As an argument, Accelerate 1.15 takes it for GPUs alone. `data_share` reads it.
        accelerator.state.parallelism_config = ParallelismConfig(
            tp_size=tensor_parallel_size,
            sp_size=sequence_parallel_size,
            dp_shard_size=accelerator.num_processes // together,
        )
    return accelerator
