"""Attention within groups of tokens, shifted for half of the heads (LongLoRA, arXiv 2309.12307).

Groups are cut in every document by itself, and the first half group of the shifted heads stands
alone instead of joining the last one: no token sees another document, or one that follows it.

Shapes: H query heads, K key and value heads, T tokens in the row, E numbers per head.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from framework.attention.constants import kept_constant
from framework.attention.segmented import document_lengths, segmented_attention


def shifted_attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    group_size: int,
    cu_seq_lens_q: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """While the layer trains, attention in groups; else, and with a cache, `segmented_attention`.

    Args:
        module: the layer.
        query: [1, H, T, E]
        key: [1, K, T, E]
        value: [1, K, T, E]
        attention_mask: what `segmented_mask` made.
        group_size: tokens of a group.
        cu_seq_lens_q: int32 [D + 1], the documents' boundaries; None for one document.

    Returns:
        [1, T, H, E]
    """
    if not module.training or query.shape[2] != key.shape[2]:
        return segmented_attention(
            module, query, key, value, attention_mask, cu_seq_lens_q=cu_seq_lens_q, **settings
        )
    lengths = (query.shape[2],) if cu_seq_lens_q is None else document_lengths(cu_seq_lens_q)
    if key.shape[1] % 2:
        # Key heads that can't be halved are repeated for each query head.
        repeats = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(repeats, 1) for one in (key, value))
    outputs: list[Tensor] = []
    for half, first in enumerate((group_size, group_size // 2)):
        groups = _group_boundaries(lengths, group_size, first, query.device)
        output, _ = segmented_attention(
            module,
            _half(query, half),
            _half(key, half),
            _half(value, half),
            attention_mask,
            cu_seq_lens_q=groups,
            **settings,
        )
        outputs.append(output)
    return torch.cat(outputs, 2), None


def _half(heads: Tensor, which: int) -> Tensor:
    """The first or the second half of the heads."""
    middle = heads.shape[1] // 2
    return heads[:, middle:] if which else heads[:, :middle]


@kept_constant(8)
def _group_boundaries(
    lengths: tuple[int, ...], group_size: int, first: int, device: torch.device
) -> Tensor:
    """int32: where groups begin, and the end; a document's first group has `first` tokens."""
    sizes: list[int] = []
    for length in lengths:
        starts = [0, *range(first, length, group_size), length]
        sizes += [stop - start for start, stop in pairwise(starts)]
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device)
