"""RMS norms of transformers -> the same norms in a few passes over their input, in both directions.

Shapes: T tokens, H numbers of a hidden state.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from framework.fused.same_code import has_code_of


def fuse_norms(model: Module) -> int:
    """Replaces the forward pass of norms whose code is Llama's; how many."""
    norms = [one for one in model.modules() if has_code_of(one, LlamaRMSNorm)]
    for norm in norms:
        norm.forward = MethodType(_forward, norm)
    return len(norms)


def _forward(self: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    return _Norm.apply(hidden, self.weight, self.variance_epsilon)


class _Norm(torch.autograd.Function):
    """w n with n = x r, r = 1 / sqrt(mean(x^2) + epsilon): Zhang and Sennrich, 2019.

    With f = w g of the gradient g, that of x is r (f - n mean(f n)).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = hidden.to(torch.float32, copy=True)
        norms = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scales = norms.square_().div_(hidden.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(hidden, weight, scales)
        return weight * exact.mul_(scales).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight, scales = ctx.saved_tensors
        exact = hidden.float()
        flow = gradients[0].to(torch.float32, copy=True)
        of_weight: Tensor | None = None
        if ctx.needs_input_grad[1]:
            rounded = (exact * scales).to(hidden.dtype)
            of_weight = (flow * rounded).sum_to_size(weight.shape).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        flow.mul_(weight)
        shares = (flow * exact).mean(-1, keepdim=True).mul_(scales.pow(3))
        return flow.mul_(scales).sub_(exact * shares).to(hidden.dtype), of_weight, None
