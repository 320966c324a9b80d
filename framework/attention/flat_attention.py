"""Causal attention of the documents of a row, on a CPU.

PyTorch's fused CPU kernel works in float32 and its backward pass takes the same time for 20 tokens
as for 400. Pieces of documents, of about the same length and padded to one, computed together by
batched matrix products, take a third of it, up to three quarters where documents have thousands of
tokens, because CPUs multiply 16-bit matrices in hardware. The longest documents, and those of
32-bit numbers, are the kernel's.

Shapes: pieces of D documents padded to L tokens, K key heads with G query heads each, E numbers per
head, T tokens in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.attention.constants import kept_constant
from framework.attention.layout import (
    PIECE_LENGTH,
    SHORTEST_PIECE,
    Group,
    Layout,
    documents_layout,
    forest_layout,
)
from framework.core.batch import Segment

MAX_SHORT_LENGTH = 4096
"""Longer documents take about as long in PyTorch's kernel."""

_SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data
_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_KERNEL_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flat_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    scale: float,
    longest: int | None = None,
) -> Tensor:
    """Each document's causal attention.

    Args:
        query: [T, K * G, E]
        key: [T, K, E]
        value: [T, K, E]
        lengths: tokens of each document, T in all.
        scale: what scores are multiplied by before the softmax.
        longest: tokens of a document that is computed together with others, at most; None: what
            takes least time.

    Returns:
        [T, K * G, E]
    """
    if longest is None:
        longest = MAX_SHORT_LENGTH if query.dtype.itemsize == 2 else 0
    layout = documents_layout(lengths, query.shape[1], key.shape[1], longest)
    return _FlatAttention.apply(query, key, value, layout, scale)


def forest_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float
) -> Tensor:
    """The same where common beginnings of documents stand once: every row's attention to those of
    its own segment before it, and to all of every segment that it continues.

    Args:
        segments: of the row's forest.
    """
    layout = forest_layout(segments, query.shape[1], key.shape[1])
    return _FlatAttention.apply(query, key, value, layout, scale)


class _FlatAttention(torch.autograd.Function):
    """Rows are gathered into groups and gathered back, in both passes: no scattered additions."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        saved: list[Tensor] = []
        outputs: list[Tensor] = []
        for group in layout.groups:
            q, k, v = _gathered(query, key, value, group)
            scores = _scores(q, k, group, scale)
            weights = torch.softmax(scores, -1)
            normalisers = None if group.keeps_weights else _normalisers(scores, weights)
            weights = weights.to(query.dtype)
            saved.append(weights if normalisers is None else normalisers)
            outputs.append(torch.bmm(weights, v).view(-1, query.shape[-1]))
        for tokens in layout.long:
            q, k, v = (_whole(one, tokens) for one in (query, key, value))
            output, normaliser = _KERNEL(q, k, v, 0.0, True, scale=scale)
            outputs.append(_rows_of(output))
            saved += [output, normaliser]
        ctx.save_for_backward(query, key, value, *saved)
        ctx.layout, ctx.scale = layout, scale
        return _ordered(outputs, layout.query_order).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        (flow,) = gradients
        layout, scale, width = ctx.layout, ctx.scale, query.shape[-1]
        of_query: list[Tensor] = []
        of_key, of_value = _KeySum(layout, key.dtype), _KeySum(layout, key.dtype)
        rows = flow.reshape(-1, width)
        for group, kept in zip(layout.groups, saved, strict=False):
            q, k, v = _gathered(query, key, value, group)
            weights = kept
            if not group.keeps_weights:
                weights = _scores(q, k, group, scale).sub_(kept).exp_().to(q.dtype)
            # Padding repeats a real row, whose gradient must not be counted a second time.
            of_output = rows.index_select(0, group.query_rows)
            of_output = of_output.index_fill_(0, group.query_padding, 0).view(q.shape)
            of_value.add(torch.bmm(weights.transpose(1, 2), of_output).view(-1, width))
            of_weights = torch.bmm(of_output, v.transpose(1, 2))
            # softmax's own kernel: one pass in float32 instead of several over stored numbers.
            scores = _SOFTMAX_BACKWARD(of_weights, weights, -1, weights.dtype)
            of_query.append(_times(scores, k, scale))
            of_key.add(_times(scores.transpose(1, 2), q, scale))
        for i, tokens in enumerate(layout.long):
            output, normaliser = saved[len(layout.groups) + 2 * i :][:2]
            q, k, v, of_output = (_whole(one, tokens) for one in (query, key, value, flow))
            found = _KERNEL_BACKWARD(of_output, q, k, v, output, normaliser, 0.0, True, scale=scale)
            for_query, for_key, for_value = map(_rows_of, found)
            of_query.append(for_query)
            of_key.add(for_key)
            of_value.add(for_value)
        of_rows = _ordered(of_query, layout.query_order), of_key.total(), of_value.total()
        found = (one.view(to.shape) for one, to in zip(of_rows, (query, key, value), strict=True))
        return (*found, None, None)


class _KeySum:
    """Gradients of the rows of keys, [T * K, E], from what each group gives."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        self._sums = list(layout.key_sums)
        self._dtype = dtype
        self._parts: list[Tensor] = []
        self._total: Tensor | None = None

    def add(self, part: Tensor) -> None:
        """What the next group gives."""
        self._parts.append(part)
        if len(self._parts) < self._sums[0].num_parts:
            return
        sums = self._sums.pop(0)
        rows = self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)
        self._parts.clear()
        if sums.starts is None:
            found = rows.index_select(0, sums.places)
        else:  # in float32
            found = F.embedding_bag(sums.places, rows, sums.starts, mode="sum")
        self._total = found if self._total is None else self._total.float().add_(found)

    def total(self) -> Tensor:
        """Of all groups."""
        assert self._total is not None, "every row of keys is seen"
        return self._total.to(self._dtype)


def _gathered(query: Tensor, key: Tensor, value: Tensor, group: Group) -> tuple[Tensor, ...]:
    """[D * K, G * L, E], and [D * K, start + L, E] twice."""
    rows = (group.query_rows, group.key_rows, group.key_rows)
    return tuple(
        one.reshape(-1, one.shape[-1])
        .index_select(0, places)
        .view(group.num_batches, -1, one.shape[-1])
        for one, places in zip((query, key, value), rows, strict=True)
    )


def _scores(query: Tensor, key: Tensor, group: Group, scale: float) -> Tensor:
    """float32 [D * K, G * L, start + L]: -inf where a token may not look."""
    scores = torch.bmm(query, key.transpose(1, 2)).float().mul_(scale)
    by_head = scores.view(len(scores), -1, group.length, group.start + group.length)
    by_head[..., group.start :].add_(_causal(group.length))
    return scores


def _whole(rows: Tensor, tokens: slice) -> Tensor:
    """[T, H, E] -> [1, H, N, E] of one document."""
    return rows[tokens].transpose(0, 1)[None]


def _rows_of(document: Tensor) -> Tensor:
    """[1, H, N, E] -> [N * H, E]."""
    return document[0].transpose(0, 1).reshape(-1, document.shape[-1])


def _normalisers(scores: Tensor, weights: Tensor) -> Tensor:
    """float32 [..., 1]: logarithms of what softmax divides by."""
    # Of the largest, whose weight is at least 1 / L: no second pass of exponentials.
    return scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log_()


def _times(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Rows of the batched product, times a number."""
    product = torch.baddbmm(right[:, :1], left, right, beta=0, alpha=scale)
    return product.view(-1, right.shape[-1])


def _ordered(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return rows.index_select(0, order)


@kept_constant(PIECE_LENGTH + SHORTEST_PIECE)
def _causal(length: int) -> Tensor:
    """float32 [L, L]: 0 where a token may look, -inf where it may not."""
    return torch.full((length, length), float("-inf")).triu(1)
