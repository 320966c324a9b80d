"""An optimizer step -> floating-point operations of each part, and what it keeps for backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode

from framework.profiling.clock import Clock, Place
from framework.tracing.operations import count_operations


class Counts(TorchDispatchMode):
    """Counts while it is entered; what it sees takes longer, so no time is taken then."""

    def __init__(self, model: Module, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        own = (*model.parameters(), *model.buffers())
        self._weights = {_address(one) for one in own if _is_plain(one)}
        self._kept: dict[int, tuple[Place, int]] = {}
        self.operations: dict[Place, float] = {}
        """Of matrix products and attention."""
        self.kept: dict[Place, int] = {}
        """Bytes that the pass with the most of them keeps from forward to backward, weights left
        out; by the place that kept them first."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        number, _ = count_operations(func, args, kwargs or {}, result)
        if number:
            place = self._clock.place
            self.operations[place] = self.operations.get(place, 0.0) + number
        return result

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Counts what autograd keeps, too."""
        hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        with hooks:
            yield
        self._end_pass()

    def _pack(self, tensor: Tensor) -> Tensor:
        place = self._clock.place
        if _is_plain(tensor) and place.phase != "backward":
            address = _address(tensor)
            if address not in self._weights:
                self._kept.setdefault(address, (place, tensor.untyped_storage().nbytes()))
        return tensor

    def _unpack(self, tensor: Tensor) -> Tensor:
        self._end_pass()
        return tensor

    def _end_pass(self) -> None:
        """The first tensor that is asked for again ends what a forward pass keeps."""
        sizes: dict[Place, int] = {}
        for place, size in self._kept.values():
            sizes[place] = sizes.get(place, 0) + size
        if sum(sizes.values()) > sum(self.kept.values()):
            self.kept = sizes
        self._kept = {}


def _is_plain(tensor: Tensor) -> bool:
    """Whether its memory is its own, and not that of tensors inside it."""
    return type(tensor) in (Tensor, torch.nn.Parameter)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
