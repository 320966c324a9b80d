"""What autograd saves while a model is traced -> counted in the machine's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Module

from framework.models.offload import LEAST_BYTES
from framework.tracing.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class _Moved:
    copy: Tensor


@contextmanager
def offloading_traced(model: Module, ledger: Ledger) -> Iterator[None]:
    """Meanwhile forward passes of the model move what `models.offload` does, and count it so."""
    forward: Callable[..., Any] = model.forward

    def offloading(*args: Any, **kwargs: Any) -> Any:
        own = {_storage(one) for one in (*model.parameters(), *model.buffers())}

        def pack(tensor: Tensor) -> Tensor | _Moved:
            small = tensor.numel() * tensor.element_size() < LEAST_BYTES
            if small or not isinstance(tensor, FakeTensor) or _storage(tensor) in own:
                return tensor
            copy = torch.empty(tensor.shape, dtype=tensor.dtype)
            ledger.hold(copy, "host")
            return _Moved(copy=copy)

        def unpack(saved: Tensor | _Moved) -> Tensor:
            return torch.empty_like(saved.copy) if isinstance(saved, _Moved) else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return forward(*args, **kwargs)

    own_before = vars(model).get("forward")
    model.forward = offloading  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del model.forward
        if own_before is not None:
            model.forward = own_before


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
