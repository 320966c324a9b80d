"""Operations on fake tensors -> how many bytes of each kind were live, moment by moment."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from framework.planning.cost import Calls
from framework.planning.memory import KINDS, Kind, Moment
from framework.tracing.operations import count_operations

_CASTS = (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype)


class Ledger(TorchDispatchMode):
    """Counts what is allocated while it is entered, inside of a FakeTensorMode.

    Operations on real tensors alone, such as a batch's boundaries, are computed.

    Args:
        num_vocabulary: last dimension of logits.
    """

    def __init__(self, num_vocabulary: int) -> None:
        super().__init__()
        self._num_vocabulary = num_vocabulary
        self._live: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._kinds: dict[int, Kind] = {}
        self._references: dict[int, weakref.ref[UntypedStorage]] = {}
        self._grew = False
        self._open: dict[str, list[Moment]] = {}
        self.phases: dict[str, list[Moment]] = {}
        """Phase -> its moments: what was live whenever something was about to be freed."""
        self.num_operations = 0.0
        """Floating-point operations so far, of matrix products and attention."""
        self.num_attention_operations = 0.0
        """Those of attention."""
        self.calls = Calls()
        """Of operations on tensors so far."""
        self.has_gradients = False
        """Whether the backward pass has given some."""
        self.fresh: Kind = "activations"
        """What new tensors are that nothing else says anything of."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)]
        if given and not any(isinstance(one, FakeTensor) for one in given):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_iter(result) if isinstance(one, FakeTensor)]
        if made:
            self._count(func, args, kwargs or {}, result)
        for tensor in made:
            self._meet(tensor, func, given)
        return result

    def hold(self, tensor: Tensor, kind: Kind) -> None:
        """Counts the tensor's memory as this kind from now on."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._kinds:
            self._add(storage, kind)
            return
        self._live[self._kinds[key]] -= storage.nbytes()
        self._live[kind] += storage.nbytes()
        self._kinds[key] = kind

    def hold_all(self, tensors: Iterable[Any], kind: Kind) -> None:
        """The same for every fake tensor among these."""
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                self.hold(tensor, kind)

    def begin(self, phase: str) -> None:
        """From now on, moments belong to this phase, too."""
        self._note()
        self._open[phase] = self.phases.setdefault(phase, [])
        self._open[phase].append(self._now())

    def end(self, phase: str) -> None:
        """Nothing if it is not going on."""
        self._note()
        self._open.pop(phase, None)

    @contextmanager
    def during(self, kind: Kind) -> Iterator[None]:
        """What is new meanwhile is of this kind."""
        before, self.fresh = self.fresh, kind
        try:
            yield
        finally:
            self.fresh = before

    def _count(self, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        number, is_attention = count_operations(func, args, kwargs, result)
        self.num_operations += number
        self.calls = self.calls.plus(Calls(products=1) if number else Calls(others=1))
        if is_attention:
            self.num_attention_operations += number

    def _meet(self, tensor: FakeTensor, func: Any, given: list[Tensor]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._kinds:
            self._add(storage, self._kind_of(tensor, func, given))

    def _kind_of(self, tensor: FakeTensor, func: Any, given: list[Tensor]) -> Kind:
        if func in _CASTS and isinstance(given[0], FakeTensor):
            source = self._kinds.get(given[0].untyped_storage()._cdata)
            if source in ("weights", "casts"):
                return "casts"
        if tensor.ndim and tensor.shape[-1] == self._num_vocabulary and tensor.ndim > 1:
            return "logits"
        return self.fresh

    def _add(self, storage: UntypedStorage, kind: Kind) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._kinds[key] = kind
        self._live[kind] += size
        self._grew = True
        self._references[key] = weakref.ref(storage, partial(self._forget, key, size))

    def _forget(self, key: int, size: int, _: Any) -> None:
        self._note()
        self._references.pop(key, None)
        self._live[self._kinds.pop(key)] -= size

    def _note(self) -> None:
        if self._grew and self._open:
            now = self._now()
            for moments in self._open.values():
                moments.append(now)
        self._grew = False

    def _now(self) -> Moment:
        return Moment(**self._live, has_gradients=self.has_gradients)
