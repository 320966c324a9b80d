"""Attention that knows whole documents alone, of a row in which common beginnings stand once.

Shapes: H query heads, K key heads, E numbers per head, U rows, T tokens of all documents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from framework.core.batch import Shared


def document_attention(
    attend: Callable[..., tuple[Tensor, Any]],
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared: Shared | None = None,
    **settings: Any,
) -> tuple[Tensor, Any]:
    """Attention of whole documents, end to end, in the place of a row whose beginnings are shared.

    Args:
        attend: computes [1, H, T, E] as transformers calls it; T tokens of all documents.
        query: [1, H, U, E]
        key: [1, K, U, E]
        value: [1, K, U, E]
        shared: None: the row already is the documents.

    Returns:
        [1, U, H, E], and what else `attend` says.
    """
    if shared is None:
        return attend(module, query, key, value, attention_mask, **settings)
    settings.pop("position_ids", None)  # of the row; documents have their boundaries
    whole = (_Spread.apply(one, shared.rows) for one in (query, key, value))
    output, beside = attend(module, *whole, attention_mask, **settings)
    return output.index_select(1, shared.tokens), beside


class _Spread(torch.autograd.Function):
    """[1, H, U, E] -> [1, H, T, E]; gradients of a row that stands in many documents are added up
    in float32."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = tensor.shape[2]
        return tensor.index_select(2, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        (gradient,) = gradients
        shape = (*gradient.shape[:2], ctx.size, gradient.shape[3])
        total = torch.zeros(shape, dtype=torch.float32, device=gradient.device)
        return total.index_add_(2, rows, gradient.float()).to(gradient.dtype), None
