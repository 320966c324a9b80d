"""A model's own plan of tensor parallelism -> the part of each layer that one process computes.

A column-wise layer has some of its outputs, the row-wise one after it the inputs that belong to
them, and what processes get is added up (Shoeybi et al., 2019: https://arxiv.org/abs/1909.08053).
Embeddings, the output layer and whatever the plan doesn't name inside layers stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import Linear, Module, Parameter
from torch.nn import functional as F
from transformers import PreTrainedModel

from framework.core.problems import Problem, UserError
from framework.models.layers import layers_of

KEY = "strategy.tensor_parallel_size"


@dataclass(kw_only=True)
class TensorGroup:
    """Processes that compute layers together, from the same data."""

    rank: int
    """This process's number among them, from 0."""
    size: int
    processes: torch.distributed.ProcessGroup | None = None
    """None: nothing is exchanged, for planning."""
    summed_bytes: int = 0
    """Of activations and their gradients that were added up so far."""
    gathered_bytes: int = 0
    """Of those that were put together."""

    def sum(self, x: Tensor) -> Tensor:
        """Added up over the group; `x` stays as it is."""
        self.summed_bytes += x.numel() * x.element_size()
        total = x.clone(memory_format=torch.contiguous_format)
        if self.processes is not None:
            torch.distributed.all_reduce(total, group=self.processes)
        return total

    def gather(self, x: Tensor, dimension: int) -> Tensor:
        """The parts of all, in order."""
        self.gathered_bytes += x.numel() * x.element_size() * self.size
        parts = [x] * self.size
        if self.processes is not None:
            x = x.contiguous()
            parts = [torch.empty_like(x) for _ in range(self.size)]
            torch.distributed.all_gather(parts, x, group=self.processes)
        return torch.cat(parts, dimension)

    def own(self, x: Tensor, dimension: int) -> Tensor:
        """This process's part."""
        return x.chunk(self.size, dimension)[self.rank]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a group holds one of the layers' weights that its plan names."""

    dimension: int | None
    """Along which each process has a part; None: each has all of it."""
    adds_up: bool = False
    """A whole weight whose gradient is the sum of what the processes find."""


def cut_layers(model: PreTrainedModel, group: TensorGroup) -> Mapping[str, Cut]:
    """Leaves this process's part of each layer in the model; name of a weight -> how it is held.

    Raises:
        UserError: the model has no plan, one that does more than this, or sizes that can't be cut.
    """
    plan = _plan_of(model)
    _check_heads(model, plan, group.size)
    enter, cuts = _Entrance(group), dict[str, Cut]()
    for path, module in list(model.named_modules()):
        style = plan.get(re.sub(r"\.\d+(?=\.)", ".*", path))
        if style is not None:
            kinds = _STYLES[style](module, path, group, enter)
            cuts |= {f"{path}.{name}": kind for name, kind in kinds.items()}
    return cuts


def _plan_of(model: PreTrainedModel) -> Mapping[str, str]:
    """Path of a module, with `*` for numbers -> its style; of what is inside of layers."""
    inside = f"{layers_of(model, KEY).path}."
    plan = {path: style for path, style in model.tp_plan.items() if path.startswith(inside)}
    unknown = {path: style for path, style in plan.items() if style not in _STYLES}
    paths = {re.sub(r"\.\d+(?=\.)", ".*", path) for path, _ in model.named_modules()}
    what = ""
    if not plan:
        what = f"transformers has no plan of tensor parallelism for {type(model).__name__}"
    elif unknown:
        path, style = next(iter(unknown.items()))
        what = f"{type(model).__name__} cuts {path} by {style!r}, which is not done here"
    elif missing := sorted(set(plan) - paths):
        what = f"{type(model).__name__} cuts {missing[0]}, which is no layer of this model"
    if what:
        raise _refusal(what)
    return plan


def _check_heads(model: PreTrainedModel, plan: Mapping[str, str], size: int) -> None:
    """Attention is computed head by head, where its keys are not put together again."""
    if not any(path.endswith("k_proj") and plan[path] == "colwise" for path in plan):
        return
    config = model.config.get_text_config().to_dict()
    for name in ("num_attention_heads", "num_key_value_heads"):
        number = config.get(name)
        if isinstance(number, int) and number % size:
            raise _refusal(f"{size} processes can't share the {number} {name} of the model")


def _refusal(what: str) -> UserError:
    hint = "write tensor_parallel_size: 1; `fsdp` alone shares out any model"
    return UserError(Problem(key=KEY, what=what, hint=hint))


# ---- layers


class _Entrance:
    """Layers that read the same tensor add up its gradient once."""

    def __init__(self, group: TensorGroup) -> None:
        self._group = group
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not x:
            self._last = (x, _Entered.apply(x, self._group))
        return self._last[1]


Kinds = dict[str, Cut]
"""Name of a module's weight -> how it is held."""


def _columns(module: Module, path: str, group: TensorGroup, enter: _Entrance) -> Kinds:
    _cut(module, path, "weight", 0, group)
    cuts = {"weight": Cut(dimension=0)}
    if module.bias is not None:
        _cut(module, path, "bias", 0, group)
        cuts["bias"] = Cut(dimension=0)
    module.register_forward_pre_hook(lambda _, inputs: (enter(inputs[0]), *inputs[1:]))
    return cuts


def _gathered_columns(module: Module, path: str, group: TensorGroup, enter: _Entrance) -> Kinds:
    cuts = _columns(module, path, group, enter)
    module.register_forward_hook(lambda _, inputs, output: _Gathered.apply(output, group))
    return cuts


def _rows(module: Module, path: str, group: TensorGroup, enter: _Entrance) -> Kinds:
    _cut(module, path, "weight", 1, group)

    def forward(x: Tensor) -> Tensor:
        output = _Summed.apply(F.linear(x, module.get_parameter("weight")), group)
        return output if module.bias is None else output + module.bias

    module.forward = forward
    return {"weight": Cut(dimension=1)}


def _split_rows(module: Module, path: str, group: TensorGroup, enter: _Entrance) -> Kinds:
    cuts = _rows(module, path, group, enter)
    module.register_forward_pre_hook(lambda _, inputs: (_Split.apply(inputs[0], group),))
    return cuts


def _within_heads(module: Module, path: str, group: TensorGroup, enter: _Entrance) -> Kinds:
    """A norm that each process computes for its own heads."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return {name: Cut(dimension=None, adds_up=True) for name in names}


_STYLES: Mapping[str, Callable[[Any, str, TensorGroup, _Entrance], Kinds]] = {
    "colwise": _columns,
    "colwise_gather_output": _gathered_columns,
    "rowwise": _rows,
    "rowwise_split_input": _split_rows,
    "replicated_with_grad_allreduce": _within_heads,
}


def _cut(module: Module, path: str, name: str, dimension: int, group: TensorGroup) -> None:
    whole = module.get_parameter(name)
    if type(module) is not Linear or whole.shape[dimension] % group.size:
        raise _refusal(
            f"{path}, {type(module).__name__} of {tuple(whole.shape)}, can't be cut in "
            f"{group.size} equal parts"
        )
    part = group.own(whole.detach(), dimension).clone()
    module.register_parameter(name, Parameter(part, requires_grad=whole.requires_grad))


# ---- what stands between layers and their group


class _Entered(torch.autograd.Function):
    """The same tensor; its gradient is the sum of what each process's part gives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradients[0]), None


class _Summed(torch.autograd.Function):
    """The sum of the parts; its gradient is that of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        return group.sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Gathered(torch.autograd.Function):
    """The parts along the last dimension, put together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return group.gather(x, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.own(gradients[0], -1), None


class _Split(torch.autograd.Function):
    """This process's part along the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return group.own(x, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.gather(gradients[0], -1), None
