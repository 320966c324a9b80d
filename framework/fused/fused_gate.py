"""Gated feed-forward layers of transformers -> the same with nothing kept that is quick to compute
again.

Shapes: T tokens, M numbers of a layer's inside.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, SiLU
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP

from framework.fused.same_code import has_code_of


def fuse_gates(model: Module) -> int:
    """Replaces the forward pass of layers whose code is Llama's, with SiLU as gate; how many."""
    layers = [
        one
        for one in model.modules()
        if has_code_of(one, LlamaMLP) and isinstance(one.act_fn, (SiLU, SiLUActivation))
    ]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _forward(self: LlamaMLP, x: Tensor) -> Tensor:
    return self.down_proj(_Gated.apply(self.gate_proj(x), self.up_proj(x)))


class _Gated(torch.autograd.Function):
    """silu(gate) up, both [..., M]: Shazeer, 2020. Autograd would keep silu(gate) too."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = F.silu(gate).mul_(gradients[0])
        return torch.ops.aten.silu_backward(gradients[0] * up, gate), of_up
