"""Arguments -> tensors that depend on nothing else, computed once and kept for every later pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kept_constant(num_kept: int) -> Callable[[_Function], _Function]:
    """Decorates a function whose result is kept for the last `num_kept` different arguments.

    Whoever calls it first may do so in inference mode, or trace a model on tensors without content;
    those who come later may train. So it is computed outside of inference mode and of any dispatch
    mode: the tensors have content and can be saved for a backward pass.

    Args:
        num_kept: how many results are kept.
    """

    def decorate(compute: Any) -> Any:
        @functools.lru_cache(maxsize=num_kept)
        @functools.wraps(compute)
        def constant(*args: Any) -> Any:
            with torch.inference_mode(False), _disable_current_modes():
                return compute(*args)

        return constant

    return decorate
