"""PyTorch operation -> how many floating-point operations it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


def count_operations(
    func: Any, args: Any, kwargs: Mapping[str, Any], result: Any
) -> tuple[float, bool]:
    """(Operations of a matrix product or of attention, whether it is attention); 0 for others.

    Args:
        func: as `__torch_dispatch__` is given it, with `args` and `kwargs`.
        result: what it returned.
    """
    operation = getattr(func, "overloadpacket", None)
    if operation in _ATTENTION:
        return _ATTENTION[operation](*args), True
    if operation in flop_registry:
        return float(flop_registry[operation](*args, **kwargs, out_val=result)), False
    return 0.0, False


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> float:
    """Of a causal product, half of whose scores are never computed."""
    batch, heads, length, size = query.shape
    return float(batch * heads * length * key.shape[2] * (size + value.shape[3]))


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> float:
    """The scores once more, and four products of their size."""
    return _attention(query, key, value) * 2.5


_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
