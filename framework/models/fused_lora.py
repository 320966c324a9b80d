"""LoRA layers of peft -> the same layers without casts and with their update added in place.

peft casts a layer's input to the float32 of its matrices, and autocast casts it back; the update is
multiplied by its scale and added to the layer's output in passes of their own, and autograd keeps
a copy of the input from each cast.

Shapes: T tokens, I inputs, O outputs, R the rank; A is [R, I], B is [O, R].
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Identity, Module, Parameter
from torch.nn import functional as F


def fuse_lora(model: Module) -> int:
    """Replaces the forward pass of LoRA layers whose arithmetic is the plain one; how many."""
    layers = [one for one in model.modules() if isinstance(one, LoraLinear) and _is_plain(one)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: LoraLinear) -> bool:
    """Whether it is a whole frozen linear layer with an update of two matrices and nothing else."""
    base = layer.base_layer
    if type(layer) is not LoraLinear or type(base) is not nn.Linear:
        return False
    own = [one for one in (base.weight, base.bias) if one is not None]
    frozen = all(type(one) in (Parameter, FakeTensor) and not one.requires_grad for one in own)
    hooked = base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base)
    biased = any(one.bias is not None for one in layer.lora_B.values())
    return frozen and not (hooked or biased or layer.lora_variant)


def _forward(self: LoraLinear, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    weight, names = self.base_layer.weight, list(self.lora_A)
    if (
        args
        or settings
        or self.disable_adapters
        or self.merged
        or len(names) != 1
        or self.active_adapters != names
        or not x.dtype == weight.dtype == _product_dtype(x, self.lora_A[names[0]])
    ):
        return LoraLinear.forward(self, x, *args, **settings)
    name = names[0]
    dropout = self.lora_dropout[name]
    return _LoraProduct.apply(
        x,
        dropout(x) if self.training and not isinstance(dropout, Identity) else None,
        weight,
        self.base_layer.bias,
        self.lora_A[name].weight,
        self.lora_B[name].weight,
        self.scaling[name],
    )


def _product_dtype(x: Tensor, layer: Module) -> torch.dtype:
    """What the layer computes in."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return layer.get_parameter("weight").dtype


class _LoraProduct(torch.autograd.Function):
    """x W^T + b + s (x' A^T) B^T, with x' = x where nothing is dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        inputs = x.reshape(-1, x.shape[-1])
        branch = inputs if dropped is None else dropped.reshape(inputs.shape)
        down, up = a.to(x.dtype), b.to(x.dtype)
        low = (branch @ down.T).mul_(scale)
        output = F.linear(inputs, weight, bias).addmm_(low, up.T)
        ctx.save_for_backward(branch, low, weight, down, up)
        ctx.scale, ctx.shape, ctx.is_dropped = scale, x.shape, dropped is not None
        ctx.dtype = a.dtype
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        branch, low, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        of_low = (gradient @ b).mul_(ctx.scale)
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ weight
            if not ctx.is_dropped:
                of_x.addmm_(of_low, a)
            of_x = of_x.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            of_dropped = (of_low @ a).view(ctx.shape)
        of_a = (of_low.T @ branch).to(ctx.dtype)
        of_b = (gradient.T @ low).to(ctx.dtype)
        return of_x, of_dropped, None, None, of_a, of_b, None
