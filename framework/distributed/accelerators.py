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
) -> Accelerator:
    """What this process and those that were started with it are to accelerate.

    One process may do several runs, one after the other; accelerate would have all of them in the
    precision of the first.

    Args:
        mixed_precision: `no`, `fp16` or `bf16`.
        handlers: settings of what accelerate makes.
        tensor_parallel_size: processes that have the same data; they follow each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=list(handlers))
    if tensor_parallel_size > 1:
        from accelerate.parallelism_config import ParallelismConfig

        # As an argument, Accelerate 1.15 takes it for GPUs alone. `data_share` reads it.
        accelerator.state.parallelism_config = ParallelismConfig(
            tp_size=tensor_parallel_size,
            dp_shard_size=accelerator.num_processes // tensor_parallel_size,
        )
    return accelerator
