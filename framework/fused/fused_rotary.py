"""Attention layers of transformers -> the same with queries and keys turned in fewer passes.

Shapes: H heads, T tokens, E numbers per head.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from framework.fused.same_code import is_same_function

NAME = "apply_rotary_pos_emb"
"""What transformers calls the function in the file of each architecture."""


def fuse_rotary(model: Module) -> int:
    """Replaces the forward pass of layers that turn as Llama does by the same instructions with
    another function in this place; how many."""
    found = 0
    for module in model.modules():
        forward = type(module).forward
        if isinstance(forward, FunctionType) and _turns_as_llama(module, forward):
            original = forward.__globals__[NAME]
            names = {**forward.__globals__, NAME: partial(_turned, original)}
            again = FunctionType(
                forward.__code__, names, forward.__name__, forward.__defaults__, None
            )
            again.__kwdefaults__ = forward.__kwdefaults__
            module.forward = MethodType(again, module)
            found += 1
    return found


def _turns_as_llama(module: Module, forward: FunctionType) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    if hooked or forward.__code__.co_freevars or NAME not in forward.__code__.co_names:
        return False
    return is_same_function(forward.__globals__.get(NAME), apply_rotary_pos_emb)


def _turned(
    original: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    if not q.dtype == k.dtype == cos.dtype == sin.dtype or cos.requires_grad or sin.requires_grad:
        return original(q, k, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return _Turned.apply(q, cos, sin), _Turned.apply(k, cos, sin)


class _Turned(torch.autograd.Function):
    """Su et al., 2021, as Llama orders the numbers: with x = (x1, x2) the halves of a head, they
    become x1 cos1 - x2 sin1 and x2 cos2 + x1 sin2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        turned = x * cos
        (first, second), (sin_first, sin_second) = turned.chunk(2, -1), sin.chunk(2, -1)
        x_first, x_second = x.chunk(2, -1)
        first.addcmul_(x_second, sin_first, value=-1)
        second.addcmul_(x_first, sin_second)
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        flow = gradients[0]
        of_x = flow * cos
        (first, second), (sin_first, sin_second) = of_x.chunk(2, -1), sin.chunk(2, -1)
        flow_first, flow_second = flow.chunk(2, -1)
        first.addcmul_(flow_second, sin_second)
        second.addcmul_(flow_first, sin_first, value=-1)
        return of_x, None, None
