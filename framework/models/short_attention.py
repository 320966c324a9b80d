"""Causal attention over short documents by batched matrix products, for 16-bit numbers on a CPU.

PyTorch's fused CPU kernel works in float32 and its backward pass takes the same time for 20 tokens
as for 400. Documents of about the same length, padded to one and computed together, take a third
of it, because CPUs multiply 16-bit matrices in hardware.

Shapes: D documents padded to L tokens, K key heads with G query heads each, E numbers per head,
T tokens in the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.models.constants import kept_constant

MAX_SHORT_LENGTH = 384
"""Longer documents take less time in PyTorch's kernel."""
LENGTH_STEP = 32
"""Documents whose lengths, rounded up to this, are equal are computed together."""
CACHED_SCORES = 1 << 18
"""Scores that are computed together, of one document at least: 1 MiB, which fits a core's cache."""

_SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data


@dataclass(frozen=True, kw_only=True)
class Group:
    """Documents that are computed together."""

    query_rows: Tensor
    """int64 [D * K * G * L]: rows of [T * H, E]; padding repeats the document's last token."""
    key_rows: Tensor
    """int64 [D * K * L]: rows of [T * K, E]."""
    query_padding: Tensor
    """int64: which of `query_rows` are padding."""
    num_batches: int
    """D * K"""
    length: int
    """L"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the documents of a row are grouped, and how to come back."""

    groups: tuple[Group, ...]
    query_order: Tensor
    """int64 [T * H]: where each row of queries is in the groups, laid end to end."""
    key_order: Tensor
    """int64 [T * K]: the same for keys and values."""


@kept_constant(4)
def make_layout(lengths: tuple[int, ...], num_heads: int, num_key_heads: int) -> Layout:
    """The layout of documents that lie end to end; the same for every layer of a batch."""
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    sizes = torch.tensor(lengths)
    groups: list[Group] = []
    query_order = torch.empty(sum(lengths) * num_heads, dtype=torch.int64)
    key_order = torch.empty(sum(lengths) * num_key_heads, dtype=torch.int64)
    num_queries = num_keys = 0
    for members in _groups(sizes, num_heads):
        length = int(sizes[members].max())
        steps = torch.arange(length)
        real = steps < sizes[members, None]
        tokens = starts[members, None] + torch.minimum(steps, sizes[members, None] - 1)
        query_rows = _rows(tokens, num_heads)
        key_rows = _rows(tokens, num_key_heads)
        query_order[query_rows[_each(real, num_heads)]] = (
            num_queries + _each(real, num_heads).nonzero().flatten()
        )
        key_order[key_rows[_each(real, num_key_heads)]] = (
            num_keys + _each(real, num_key_heads).nonzero().flatten()
        )
        num_queries, num_keys = num_queries + len(query_rows), num_keys + len(key_rows)
        groups.append(
            Group(
                query_rows=query_rows,
                key_rows=key_rows,
                query_padding=(~_each(real, num_heads)).nonzero().flatten(),
                num_batches=len(members) * num_key_heads,
                length=length,
            )
        )
    return Layout(groups=tuple(groups), query_order=query_order, key_order=key_order)


def _groups(sizes: Tensor, num_heads: int) -> Iterator[Tensor]:
    """int64 [D]: documents of about the same length, so few that their scores stay in the cache."""
    buckets = (sizes + LENGTH_STEP - 1) // LENGTH_STEP
    for bucket in buckets.unique():
        members = (buckets == bucket).nonzero().flatten()
        num_scores = num_heads * (int(bucket) * LENGTH_STEP) ** 2
        yield from members.split(max(1, CACHED_SCORES // num_scores))


def _rows(tokens: Tensor, num_heads: int) -> Tensor:
    """Tokens [D, L] -> rows of [T * heads, E], ordered by document, head, token."""
    heads = torch.arange(num_heads)[None, :, None]
    return (tokens[:, None] * num_heads + heads).flatten()


def _each(real: Tensor, num_heads: int) -> Tensor:
    """Bool [D, L] -> [D * heads * L]."""
    return real[:, None].expand(-1, num_heads, -1).flatten()


def short_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float
) -> Tensor:
    """Each document's causal attention.

    Args:
        query: [T, K * G, E], 16-bit.
        key: [T, K, E]
        value: [T, K, E]
        lengths: tokens of each document, T in all.
        scale: what scores are multiplied by before the softmax.

    Returns:
        [T, K * G, E]
    """
    layout = make_layout(lengths, query.shape[1], key.shape[1])
    return _ShortAttention.apply(query, key, value, layout, scale)


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        output, _, saved = short_forward(query, key, value, layout, scale)
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        return (*short_backward(saved, gradients[0], None, ctx.layout, ctx.scale), None, None)


def short_forward(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows are gathered into groups and gathered back, in both passes: no scattered additions.

    Returns:
        The output [T, K * G, E]; float32 [T, K * G], the logarithms of the softmaxes' normalisers;
        what the backward pass needs besides.
    """
    width = query.shape[-1]
    queries = query.reshape(-1, width)
    keys, values = key.reshape(-1, width), value.reshape(-1, width)
    saved: list[Tensor] = []
    outputs: list[Tensor] = []
    normalisers: list[Tensor] = []
    for group in layout.groups:
        batch = group.num_batches
        q = queries.index_select(0, group.query_rows).view(batch, -1, width)
        k = keys.index_select(0, group.key_rows).view(batch, -1, width)
        v = values.index_select(0, group.key_rows).view(batch, -1, width)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)
        by_head = scores.view(batch, -1, group.length, group.length)
        by_head.add_(_causal(group.length))
        weights, normaliser = softmax(scores)
        weights = weights.to(query.dtype)
        outputs.append(torch.bmm(weights, v).view(-1, width))
        normalisers.append(normaliser.view(-1, 1))
        saved += [q, k, v, weights]
    output = _ordered(outputs, layout.query_order).view(query.shape)
    return output, _ordered(normalisers, layout.query_order).view(query.shape[:2]), saved


def softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [..., L] -> the same exponentiated and normalised, and the logarithm of the
    normaliser [..., 1]."""
    weights = torch.softmax(scores, -1)
    # Of the largest, whose weight is at least 1 / L: no second pass of exponentials.
    return weights, scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log_()


def short_backward(
    saved: Sequence[Tensor],
    flow: Tensor,
    inner: Tensor | None,
    layout: Layout,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    Args:
        saved: what the forward pass kept.
        flow: [T, K * G, E], the output's gradient.
        inner: float32 [T, K * G], its inner product with the output, where that is not of the saved
            weights alone.
    """
    shape, width = flow.shape, flow.shape[-1]
    rows = flow.reshape(-1, width)
    query_parts: list[Tensor] = []
    key_parts: list[Tensor] = []
    value_parts: list[Tensor] = []
    for i, group in enumerate(layout.groups):
        q, k, v, weights = saved[4 * i : 4 * i + 4]
        # Padding repeats a real row, whose gradient must not be counted a second time.
        of_output = rows.index_select(0, group.query_rows)
        of_output = of_output.index_fill_(0, group.query_padding, 0).view(q.shape)
        value_parts.append(torch.bmm(weights.transpose(1, 2), of_output).view(-1, width))
        of_weights = torch.bmm(of_output, v.transpose(1, 2))
        if inner is None:
            # softmax's own kernel: one pass in float32 instead of several over stored numbers.
            scores = _SOFTMAX_BACKWARD(of_weights, weights, -1, weights.dtype)
        else:
            product = inner.reshape(-1, 1).index_select(0, group.query_rows)
            product = product.index_fill_(0, group.query_padding, 0).view(*weights.shape[:2], 1)
            scores = of_weights.float().sub_(product).mul_(weights).to(weights.dtype)
        query_parts.append(_times(scores, k, scale))
        key_parts.append(_times(scores.transpose(1, 2), q, scale))
    of_query, of_key, of_value = (
        _ordered(parts, order)
        for parts, order in (
            (query_parts, layout.query_order),
            (key_parts, layout.key_order),
            (value_parts, layout.key_order),
        )
    )
    by_token = (shape[0], -1, width)
    return of_query.view(shape), of_key.view(by_token), of_value.view(by_token)


def _times(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Rows of the batched product, times a number."""
    product = torch.baddbmm(right[:, :1], left, right, beta=0, alpha=scale)
    return product.view(-1, right.shape[-1])


def _ordered(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return rows.index_select(0, order)


@kept_constant(MAX_SHORT_LENGTH)
def _causal(length: int) -> Tensor:
    """float32 [L, L]: 0 where a token may look, -inf where it may not."""
    return torch.full((length, length), float("-inf")).triu(1)
