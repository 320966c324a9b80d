"""Every process holds a part of each weight, by PyTorch's `fully_shard`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer
from transformers import PreTrainedModel

from framework.attention.sequence_parallel import SequenceGroup
from framework.core.problems import Problem, UserError
from framework.distributed.state import UNCUT, Places, capture_state, load_state
from framework.distributed.together import Together
from framework.distributed.whole import whole_parameters
from framework.models.layers import layers_of
from framework.models.policy import plain_model
from framework.models.tensor_parallel import TensorGroup, cut_layers

REPLICATED, SHARDED, TENSOR = "replicated", "sharded", "tensor"
"""Dimensions of the mesh: over copies of the model, over those that share one out, and over those
that compute each layer together."""


@dataclass(frozen=True, kw_only=True)
class SharingSettings:
    """How weights are shared out."""

    gathered_dtype: str | None
    """What collected weights are held in; None: their own dtype."""
    reduce_dtype: str
    """What gradients are added up in."""
    reshard_after_forward: bool
    reduce_each_pass: bool
    cpu_offload: bool
    num_replicas: int
    tensor_parallel_size: int = 1
    sequence_parallel_size: int = 1


class Sharded:
    """The model shared out over processes, layer by layer; implements `protocols.Spread`.

    Layers and the transformers model are sharded themselves, not what an adapter wraps around them:
    so weights are collected whichever of them is called. Where processes compute layers together,
    each shares out its part of a layer with those that have the same part. Where they compute
    slices of rows, their gradients are parts that are added up as those of different data are.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Module,
        build_optimizer: Callable[[Module], Optimizer],
        settings: SharingSettings,
    ) -> None:
        self._accelerator, self._settings = accelerator, settings
        mesh = _mesh(accelerator, settings)
        self._group = mesh[SHARDED].get_group()
        self.model = self.plain = model
        self._together = (
            _compute_together(model, mesh, accelerator) if TENSOR in _names(mesh) else None
        )
        self.sequence = _sequence_group(settings.sequence_parallel_size)
        names = tuple(name for name in (REPLICATED, SHARDED) if name in _names(mesh))
        self._root = _shard(plain_model(model), mesh[names], settings)
        self._sharded = [one for one in model.modules() if isinstance(one, FSDPModule)]
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._parameters = list(trained.values())
        self._names = list(trained)
        self._refuse()
        self.notes = tuple(self._noted(mesh))
        self.optimizer = build_optimizer(model)

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        """See `protocols.Spread`."""
        self._root.set_is_last_backward(last)
        self._root.set_requires_gradient_sync(last or self._settings.reduce_each_pass)
        yield

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `protocols.Spread`."""
        loss.backward()

    def step(self, max_norm: float | None, refuse: Callable[[float], None]) -> float:
        """See `protocols.Spread`; a norm that is refused leaves the weights as they are."""
        gradients = {
            name: _part(one.grad)
            for name, one in zip(self._names, self._parameters, strict=True)
            if one.grad is not None
        }
        if self._together is not None:
            self._together.agree(gradients)
        norm = self._norm(gradients)
        refuse(norm)
        factor = 1.0 if max_norm is None else max_norm / (norm + 1e-6)
        if factor < 1:
            for gradient in gradients.values():
                gradient.mul_(factor)
        self.optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """See `protocols.Spread`."""
        self.optimizer.zero_grad()

    @contextmanager
    def whole(self) -> Iterator[Module]:
        """See `protocols.Spread`; other processes keep their parts."""
        self.share_out()
        names = {id(one): name for name, one in self.plain.named_parameters()}
        is_main = self._accelerator.is_main_process
        with (
            whole_parameters(
                self.plain, lambda one: self._gathered(names[id(one)], one), keep=is_main
            ),
            _own_classes(self._sharded),
        ):
            yield self.plain

    def capture(self) -> Callable[[Path], None]:
        """See `protocols.Spread`."""
        self.share_out()
        rank = self._accelerator.process_index
        return capture_state(self.plain, self.optimizer, rank, self.places)

    def load(self, folder: Path) -> None:
        """See `protocols.Spread`."""
        self.share_out()
        load_state(self.plain, self.optimizer, folder, self.places)

    @property
    def places(self) -> Places:
        """See `protocols.InParts`."""
        return UNCUT if self._together is None else self._together.places

    def share_out(self) -> None:
        """See `protocols.InParts`."""
        for module in self._sharded:
            module.reshard()

    def _norm(self, gradients: Mapping[str, Tensor]) -> float:
        """Of all gradients, of which this process holds these parts."""
        norms = [torch.linalg.vector_norm(one, dtype=torch.float32) for one in gradients.values()]
        squares = torch.stack(norms).square().to(self._accelerator.device)
        torch.distributed.all_reduce(squares, group=self._group)
        if self._together is not None:
            self._together.add_up(squares, gradients)
        return float(squares.sum().sqrt())

    def _gathered(self, name: str, parameter: Parameter) -> Tensor | None:
        if not isinstance(parameter, DTensor):
            return None
        part = parameter.detach().to(self._accelerator.device)
        assert isinstance(part, DTensor)
        whole = part.full_tensor()
        return whole if self._together is None else self._together.gathered(name, whole)

    def _noted(self, mesh: DeviceMesh) -> Iterator[str]:
        copies = f", in {mesh.size(0)} copies" if REPLICATED in _names(mesh) else ""
        yield f"weights, gradients and optimizer state: shared out by {self._group.size()}{copies}"
        if self._together is not None:
            yield self._together.note
        if self.sequence is not None:
            yield f"rows: computed together by {self.sequence.size}, a slice of each by every one"
        whole = [one for one in self.plain.parameters() if not isinstance(one, DTensor)]
        if whole:
            num_bytes = sum(one.numel() * one.element_size() for one in whole)
            yield (
                f"whole on each device: {len(whole)} weights of {num_bytes / 2**30:.2f} GiB that "
                "can't be cut, such as quantised ones"
            )

    def _refuse(self) -> None:
        """What an adapter may train that can't be shared out."""
        shared = [one for one in self._parameters if isinstance(one, DTensor)]
        dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in shared})
        what = ""
        if len(shared) < len(self._parameters):
            what = "the adapter trains weights that stand outside of the model, or single numbers"
        elif len(dtypes) > 1:
            what = f"gradients are added up in one dtype, and the adapter trains {dtypes}"
        if what:
            hint = "write `adapter: lora`, or strategy: ddp"
            raise UserError(Problem(key="strategy", what=what, hint=hint))


def _mesh(accelerator: Accelerator, settings: SharingSettings) -> DeviceMesh:
    """Over the dimensions that there are; neighbours compute layers together."""
    copies, together = settings.num_replicas, settings.tensor_parallel_size
    sizes = {SHARDED: accelerator.num_processes // (copies * together)}
    sizes = {REPLICATED: copies, **sizes} if copies > 1 else sizes
    sizes |= {TENSOR: together} if together > 1 else {}
    return init_device_mesh(
        accelerator.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes)
    )


def _sequence_group(size: int) -> SequenceGroup | None:
    """This process's, of neighbours; None where each computes rows of its own."""
    if size == 1:
        return None
    processes, _ = torch.distributed.new_subgroups(size)
    assert isinstance(processes, torch.distributed.ProcessGroup), "every process is in one"
    return SequenceGroup(rank=processes.rank(), size=size, processes=processes)


def _names(mesh: DeviceMesh) -> tuple[str, ...]:
    return mesh.mesh_dim_names or ()


def _compute_together(model: Module, mesh: DeviceMesh, accelerator: Accelerator) -> Together:
    """Leaves this process's part of each layer in the model."""
    together = mesh[TENSOR]
    group = TensorGroup(
        rank=together.get_local_rank(), size=together.size(), processes=together.get_group()
    )
    assert isinstance(model, PreTrainedModel), "an adapter is refused"
    return Together(model, group, cut_layers(model, group), accelerator.device)


def _shard(model: Module, mesh: DeviceMesh, settings: SharingSettings) -> FSDPModule:
    """Each layer, then what is left of the model."""
    offload = OffloadPolicy()
    if settings.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu")
    gathered = settings.gathered_dtype
    precision = MixedPrecisionPolicy(
        param_dtype=None if gathered is None else getattr(torch, gathered),
        reduce_dtype=getattr(torch, settings.reduce_dtype),
        # Autocast decides what products are computed in.
        cast_forward_inputs=False,
    )
    ignored = _kept_whole(model)
    # What stands before and after the layers is needed first in the backward pass: it stays.
    reshard = settings.reshard_after_forward
    layers = [(layer, reshard) for layer in layers_of(model, "strategy").modules]
    for module, reshards in (*layers, (model, None if reshard else False)):
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=reshards,
            mp_policy=precision,
            offload_policy=offload,
            ignored_params=ignored,
        )
    assert isinstance(model, FSDPModule)
    # Processes may differ in which experts their tokens reach.
    model.set_reduce_scatter_unused_params(True)
    return model


def _kept_whole(model: Module) -> set[Parameter]:
    """Single numbers, and quantised weights whose bits can't be cut into rows."""
    return {
        one
        for one in model.parameters()
        if one.ndim == 0 or (type(one) is not Parameter and not _is_cut_in_bytes(one))
    }


def _is_cut_in_bytes(parameter: Parameter) -> bool:
    """Whether it is a weight of bitsandbytes in 4 bits, whose layer knows the scales. Bits that are
    stored as floating-point numbers would be rounded with them."""
    if parameter.dtype != torch.uint8 or not type(parameter).__module__.startswith("bitsandbytes"):
        return False
    from bitsandbytes.nn.modules import Params4bit

    return isinstance(parameter, Params4bit)


def _part(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, DTensor), "all that is trained is shared out"
    return tensor.to_local()


@contextmanager
def _own_classes(modules: Sequence[FSDPModule]) -> Iterator[None]:
    """`fully_shard` puts classes of its own in the modules' place, which would be saved."""
    classes = [type(one) for one in modules]
    for module, kind in zip(modules, classes, strict=True):
        module.__class__ = kind.__mro__[FSDPModule._orig_cls_mro_index]
    try:
        yield
    finally:
        for module, kind in zip(modules, classes, strict=True):
            module.__class__ = kind
