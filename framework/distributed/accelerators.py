"""Precision of gradients -> the accelerate object of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import KwargsHandler


def new_accelerator(mixed_precision: str, handlers: Sequence[KwargsHandler] = ()) -> Accelerator:
    """What this process and those that were started with it are to accelerate.

    One process may do several runs, one after the other; accelerate would have all of them in the
    precision of the first.

    Args:
        mixed_precision: `no`, `fp16` or `bf16`.
        handlers: settings of what accelerate makes.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=list(handlers))
