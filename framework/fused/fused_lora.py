"""LoRA layers of peft -> the same layers without casts, with their update added in place, and
several as one where they read the same hidden states.

peft casts a layer's input to the float32 of its matrices, and autocast casts it back; the update is
multiplied by its scale and added to the layer's output in passes of their own, and autograd keeps
a copy of the input from each cast. Queries, keys and values each give their input a gradient of its
own, and so do a gate and what it lets through: those are summed here while they are computed.

Shapes: T tokens, I inputs, O outputs, R the rank; A is [R, I], B is [O, R].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Identity, Module, Parameter
from torch.nn import functional as F

READING_THE_SAME = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names in transformers of layers of a module that are run on one input, in this order."""


def fuse_lora(model: Module) -> int:
    """Replaces the forward pass of LoRA layers whose arithmetic is the plain one; how many."""
    plain = [one for one in model.modules() if isinstance(one, LoraLinear) and _is_plain(one)]
    alone = dict.fromkeys(plain)
    for layers in _reading_the_same(model):
        if all(layer in alone for layer in layers):
            _Together(layers)
            for layer in layers:
                del alone[layer]
    for layer in alone:
        layer.forward = partial(_forward, layer)
    return len(plain)


def _reading_the_same(model: Module) -> Iterator[list[Any]]:
    for module in model.modules():
        for names in READING_THE_SAME:
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, LoraLinear) for layer in layers):
                yield layers


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


class _Together:
    """Layers that are run one after the other on the same tensor: the first run computes all.

    Where it turns out that they are not, each is computed alone from then on.
    """

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self.layers = tuple(layers)
        self.are_together = True
        self.x: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}
        for place, layer in enumerate(self.layers):
            layer.forward = partial(self.forward, place)

    def forward(self, place: int, x: Tensor, *args: Any, **settings: Any) -> Tensor:
        """The output of one of them."""
        if args or settings or not self.are_together:
            return _forward(self.layers[place], x, *args, **settings)
        if place == 0:
            self._begin(x)
        elif self.outputs and self.x is not x:
            self.are_together, self.outputs = False, {}
        output = self.outputs.pop(place, None)
        if not self.outputs:
            self.x = None
        return _forward(self.layers[place], x) if output is None else output

    def _begin(self, x: Tensor) -> None:
        self.x, self.outputs = x, {}
        products = [_product_of(layer, x) for layer in self.layers]
        known = [one for one in products if one is not None and one.dropout is None]
        if len(known) == len(self.layers):
            self.outputs = dict(enumerate(_products(x, known)))


class _Product(NamedTuple):
    """What a layer computes now."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scale: float
    dropout: Module | None
    """What makes the update's input of the layer's, where they differ."""


def _forward(self: LoraLinear, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    product = None if args or settings else _product_of(self, x)
    if product is None:
        return LoraLinear.forward(self, x, *args, **settings)
    dropped = None if product.dropout is None else product.dropout(x)
    return _products(x, [product], dropped)[0]


def _product_of(layer: LoraLinear, x: Tensor) -> _Product | None:
    """None where it is not the plain arithmetic of one adapter."""
    base, names = cast(nn.Linear, layer.base_layer), list(layer.lora_A)
    if (
        layer.disable_adapters
        or layer.merged
        or len(names) != 1
        or layer.active_adapters != names
        or not x.dtype == base.weight.dtype == _product_dtype(x, layer.lora_A[names[0]])
    ):
        return None
    dropout = layer.lora_dropout[names[0]]
    return _Product(
        base.weight,
        base.bias,
        layer.lora_A[names[0]].get_parameter("weight"),
        layer.lora_B[names[0]].get_parameter("weight"),
        layer.scaling[names[0]],
        dropout if layer.training and not isinstance(dropout, Identity) else None,
    )


def _product_dtype(x: Tensor, layer: Module) -> torch.dtype:
    """What the layer computes in."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return layer.get_parameter("weight").dtype


def _products(
    x: Tensor, products: Sequence[_Product], dropped: Tensor | None = None
) -> tuple[Tensor, ...]:
    matrices = [one for product in products for one in product[:4]]
    scales = [product.scale for product in products]
    return _LoraProducts.apply(x, dropped, scales, *matrices)


class _LoraProducts(torch.autograd.Function):
    """x W^T + b + s (x' A^T) B^T of each layer, with x' = x where nothing is dropped."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, scales: list[float], *matrices: Any
    ) -> tuple[Tensor, ...]:
        weights, biases, downs, ups = (matrices[first::4] for first in range(4))
        inputs = x.reshape(-1, x.shape[-1])
        branch = inputs if dropped is None else dropped.reshape(inputs.shape)
        ctx.dtype, ctx.scales, ctx.ranks = downs[0].dtype, scales, [len(down) for down in downs]
        down = (downs[0] if len(downs) == 1 else torch.cat(downs)).to(x.dtype)
        ups = [up.to(x.dtype) for up in ups]
        low = down @ branch.T
        outputs: list[Tensor] = []
        for weight, bias, up, part, scale in zip(
            weights, biases, ups, low.split(ctx.ranks), scales, strict=True
        ):
            product = F.linear(inputs, weight, bias).addmm_(part.mul_(scale).T, up.T)
            outputs.append(product.view(*x.shape[:-1], -1))
        ctx.save_for_backward(branch, low, down, *ups, *weights)
        ctx.shape, ctx.is_dropped = x.shape, dropped is not None
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        branch, low, down, *rest = ctx.saved_tensors
        ups, weights = rest[: len(ctx.ranks)], rest[len(ctx.ranks) :]
        flows = [one.reshape(-1, len(up)) for one, up in zip(gradients, ups, strict=True)]
        of_low = torch.empty_like(low)
        of_ups: list[Tensor] = []
        parts = (low.split(ctx.ranks), of_low.split(ctx.ranks))
        for flow, up, scale, part, of_part in zip(flows, ups, ctx.scales, *parts, strict=True):
            torch.mm(up.T, flow.T, out=of_part).mul_(scale)
            of_ups.append((flow.T @ part.T).to(ctx.dtype))
        of_x = of_dropped = None
        if ctx.needs_input_grad[0]:
            of_x = flows[0] @ weights[0]
            for flow, weight in zip(flows[1:], weights[1:], strict=True):
                of_x.addmm_(flow, weight)
            if not ctx.is_dropped:
                of_x.addmm_(of_low.T, down)
            of_x = of_x.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            of_dropped = (of_low.T @ down).view(ctx.shape)
        of_downs = (of_low @ branch).to(ctx.dtype).split(ctx.ranks)
        each = zip(of_downs, of_ups, strict=True)
        of_matrices = [one for of_a, of_b in each for one in (None, None, of_a, of_b)]
        return of_x, of_dropped, None, *of_matrices
