"""Arguments -> tensors that depend on nothing else, computed once and kept for every later pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

_Arguments = ParamSpec("_Arguments")
_Constant = TypeVar("_Constant")


def kept_constant(
    num_kept: int,
) -> Callable[[Callable[_Arguments, _Constant]], Callable[_Arguments, _Constant]]:
    """Decorates a function whose result is kept for the last `num_kept` different arguments.

    Whoever calls it first may do so in inference mode, or trace a model on tensors without content;
    those who come later may train. So it is computed outside of inference mode and of any dispatch
    mode: the tensors have content and can be saved for a backward pass.

    Args:
        num_kept: how many results are kept.
    """

    def decorate(compute: Callable[_Arguments, _Constant]) -> Callable[_Arguments, _Constant]:
        @functools.lru_cache(maxsize=num_kept)
        @functools.wraps(compute)
        def constant(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Constant:
            with torch.inference_mode(False), _disable_current_modes():
                return compute(*args, **kwargs)

        return constant

    return decorate
