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

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.attention.constants import kept_constant

MAX_SHORT_LENGTH = 4096
"""Longer documents take about as long in PyTorch's kernel."""
LONGEST_KEPT = 512
"""Of tokens that see more, the softmax's weights aren't kept for the backward pass: what they take
grows with the square of a document's length."""
PIECE_LENGTH = 128
"""Tokens of a longer document whose scores are computed together: with those before them, and not
with those after them, which they don't see."""
SHORTEST_PIECE = 64
"""Fewer last ones belong to the piece before."""
LENGTH_STEP = 32
"""Pieces whose lengths, rounded up to this, are equal are computed together."""
CACHED_SCORES = 1 << 18
"""Scores that are computed together, of one document at least: 1 MiB, which fits a core's cache."""

_SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data
_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_KERNEL_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pieces of documents that are computed together: L tokens of each, after `start` others."""

    query_rows: Tensor
    """int64 [D * K * G * L]: rows of [T * H, E]; padding repeats the piece's last token."""
    key_rows: Tensor
    """int64 [D * K * (start + L)]: rows of [T * K, E]."""
    query_padding: Tensor
    """int64: which of `query_rows` are padding."""
    num_batches: int
    """D * K"""
    start: int
    """Tokens of each document before these, all of which they see."""
    length: int
    """L"""

    @property
    def keeps_weights(self) -> bool:
        """Whether the backward pass finds the softmax's weights, or makes them again."""
        return self.start + self.length <= LONGEST_KEPT


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the documents of a row are grouped, and how to come back."""

    groups: tuple[Group, ...]
    long: tuple[slice, ...]
    """The tokens of each document that is computed by itself, after the groups."""
    query_order: Tensor
    """int64 [T * H]: where each row of queries is in the groups, laid end to end."""
    key_order: Tensor
    """int64 [T * K]: the same for keys and values, in the piece that is a token's own."""
    later: tuple[tuple[Tensor, Tensor], ...]
    """Rows of keys, and where they are in a later piece: of the next one, the one after it, ..."""


def layout_of(
    query: Tensor, key: Tensor, lengths: tuple[int, ...], longest: int | None = None
) -> Layout:
    """The layout of documents that lie end to end; the same for every layer of a batch.

    Args:
        longest: tokens of a document that is computed together with others, at most; None: what
            takes least time.
    """
    if longest is None:
        longest = MAX_SHORT_LENGTH if query.dtype.itemsize == 2 else 0
    return _make_layout(lengths, query.shape[1], key.shape[1], longest)


@kept_constant(4)
def _make_layout(
    lengths: tuple[int, ...], num_heads: int, num_key_heads: int, longest: int
) -> Layout:
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    groups: list[Group] = []
    query_order = torch.empty(sum(lengths) * num_heads, dtype=torch.int64)
    key_order = torch.empty(sum(lengths) * num_key_heads, dtype=torch.int64)
    later = defaultdict[int, list[tuple[Tensor, Tensor]]](list)
    num_queries = num_keys = 0
    for start, origins, sizes in _groups(starts, torch.tensor(lengths), num_heads, longest):
        length = int(sizes.max())
        steps = torch.arange(start + length)
        real = steps < start + sizes[:, None]
        tokens = origins[:, None] + torch.minimum(steps, start + sizes[:, None] - 1)
        own = _each(real[:, start:], num_heads)
        query_rows, key_rows = _rows(tokens[:, start:], num_heads), _rows(tokens, num_key_heads)
        query_order[query_rows[own]] = num_queries + own.nonzero().flatten()
        pieces_before = (start - steps + PIECE_LENGTH - 1) // PIECE_LENGTH
        for number in range(start // PIECE_LENGTH + 1):
            those = _each(real & (pieces_before.clamp(min=0) == number), num_key_heads)
            places = num_keys + those.nonzero().flatten()
            if number:
                later[number].append((key_rows[those], places))
            else:
                key_order[key_rows[those]] = places
        num_queries, num_keys = num_queries + len(query_rows), num_keys + len(key_rows)
        groups.append(
            Group(
                query_rows=query_rows,
                key_rows=key_rows,
                query_padding=(~own).nonzero().flatten(),
                num_batches=len(sizes) * num_key_heads,
                start=start,
                length=length,
            )
        )
    long: list[slice] = []
    for start, size in zip(starts.tolist(), lengths, strict=True):
        if size > longest:
            long.append(slice(start, start + size))
            num_queries = _lay_whole(query_order, long[-1], num_heads, num_queries)
            num_keys = _lay_whole(key_order, long[-1], num_key_heads, num_keys)
    return Layout(
        groups=tuple(groups),
        long=tuple(long),
        query_order=query_order,
        key_order=key_order,
        later=tuple(
            (torch.cat([rows for rows, _ in found]), torch.cat([places for _, places in found]))
            for found in later.values()
        ),
    )


def _lay_whole(order: Tensor, tokens: slice, num_heads: int, num_before: int) -> int:
    """Puts a document's rows, by token and head, after those before; how many there are then."""
    number = (tokens.stop - tokens.start) * num_heads
    order[tokens.start * num_heads : tokens.stop * num_heads] = num_before + torch.arange(number)
    return num_before + number


def _groups(
    starts: Tensor, sizes: Tensor, num_heads: int, longest: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Pieces of about the same length, so few that their scores stay in the cache: how many tokens
    are before each in its document; int64 [D] each, the documents' first tokens and the lengths."""
    short = sizes <= longest
    for start in range(0, int(sizes[short].max()) if short.any() else 0, PIECE_LENGTH):
        left = sizes - start
        lengths = torch.where(left < PIECE_LENGTH + SHORTEST_PIECE, left, PIECE_LENGTH)
        buckets = (lengths + LENGTH_STEP - 1) // LENGTH_STEP
        buckets[~short | (left < (SHORTEST_PIECE if start else 1))] = 0
        for bucket in buckets[buckets > 0].unique():
            length = int(bucket) * LENGTH_STEP
            members = (buckets == bucket).nonzero().flatten()
            num_scores = num_heads * length * (start + length)
            for few in members.split(max(1, CACHED_SCORES // num_scores)):
                yield start, starts[few], lengths[few]


def _rows(tokens: Tensor, num_heads: int) -> Tensor:
    """Tokens [D, L] -> rows of [T * heads, E], ordered by document, head, token."""
    heads = torch.arange(num_heads)[None, :, None]
    return (tokens[:, None] * num_heads + heads).flatten()


def _each(real: Tensor, num_heads: int) -> Tensor:
    """Bool [D, L] -> [D * heads * L]."""
    return real[:, None].expand(-1, num_heads, -1).flatten()


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
        longest: see `layout_of`.

    Returns:
        [T, K * G, E]
    """
    layout = layout_of(query, key, lengths, longest)
    return _FlatAttention.apply(query, key, value, layout, scale)


class _FlatAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        output, _, saved = flat_forward(query, key, value, layout, scale)
        ctx.save_for_backward(query, key, value, *saved)
        ctx.layout, ctx.scale = layout, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        (flow,) = gradients
        found = flat_backward(query, key, value, saved, flow, ctx.layout, ctx.scale)
        return (*found, None, None)


def flat_forward(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, *, joins: bool = False
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Rows are gathered into groups and gathered back, in both passes: no scattered additions.

    Args:
        joins: the documents will be joined with more that their rows see.

    Returns:
        The output [T, K * G, E]; where they will be joined float32 [T, K * G], the logarithms of
        the softmaxes' normalisers; what the backward pass needs besides.
    """
    width = query.shape[-1]
    saved: list[Tensor] = []
    outputs: list[Tensor] = []
    normalisers: list[Tensor] = []
    for group in layout.groups:
        q, k, v = _gathered(query, key, value, group)
        scores = _scores(q, k, group, scale)
        normaliser = None
        if joins or not group.keeps_weights:
            weights, normaliser = softmax(scores)
        else:
            weights = torch.softmax(scores, -1)
        if joins and normaliser is not None:
            normalisers.append(normaliser.view(-1, 1))
        weights = weights.to(query.dtype)
        outputs.append(torch.bmm(weights, v).view(-1, width))
        saved.append(weights if group.keeps_weights or normaliser is None else normaliser)
    for tokens in layout.long:
        q, k, v = (_whole(one, tokens) for one in (query, key, value))
        output, normaliser = _KERNEL(q, k, v, 0.0, True, scale=scale)
        outputs.append(_rows_of(output))
        if joins:
            normalisers.append(_rows_of(normaliser[..., None]))
        saved += [output, normaliser]
    output = _ordered(outputs, layout.query_order).view(query.shape)
    if not joins:
        return output, None, saved
    return output, _ordered(normalisers, layout.query_order).view(query.shape[:2]), saved


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


def softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [..., L] -> the same exponentiated and normalised, and the logarithm of the
    normaliser [..., 1]."""
    weights = torch.softmax(scores, -1)
    # Of the largest, whose weight is at least 1 / L: no second pass of exponentials.
    return weights, scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log_()


def flat_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    saved: Sequence[Tensor],
    flow: Tensor,
    layout: Layout,
    scale: float,
    joined: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    Args:
        saved: what the forward pass kept.
        flow: [T, K * G, E], the output's gradient; times the share of these documents in `joined`.
        joined: [T, K * G, E], what they and more that their rows see gave together. None: there is
            no more.
    """
    shape, width = flow.shape, flow.shape[-1]
    inner = None if joined is None else (flow.float() * joined.float()).sum(-1)
    rows = flow.reshape(-1, width)
    query_parts: list[Tensor] = []
    key_parts: list[Tensor] = []
    value_parts: list[Tensor] = []
    for i, group in enumerate(layout.groups):
        q, k, v = _gathered(query, key, value, group)
        weights = saved[i]
        if not group.keeps_weights:
            weights = _scores(q, k, group, scale).sub_(weights).exp_().to(q.dtype)
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
    for i, tokens in enumerate(layout.long):
        first = len(layout.groups) + 2 * i
        q, k, v = (_whole(one, tokens) for one in (query, key, value))
        output, normaliser = saved[first : first + 2]
        if joined is not None:
            output = _whole(joined, tokens)
        found = _KERNEL_BACKWARD(
            _whole(flow, tokens), q, k, v, output, normaliser, 0.0, True, scale=scale
        )
        for part, one in zip((query_parts, key_parts, value_parts), found, strict=True):
            part.append(_rows_of(one))
    of_query = _ordered(query_parts, layout.query_order)
    of_key, of_value = (_added_up(parts, layout) for parts in (key_parts, value_parts))
    by_token = (shape[0], -1, width)
    return of_query.view(shape), of_key.view(by_token), of_value.view(by_token)


def _times(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Rows of the batched product, times a number."""
    product = torch.baddbmm(right[:, :1], left, right, beta=0, alpha=scale)
    return product.view(-1, right.shape[-1])


def _ordered(parts: Sequence[Tensor], order: Tensor) -> Tensor:
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    return rows.index_select(0, order)


def _added_up(parts: Sequence[Tensor], layout: Layout) -> Tensor:
    """[T * K, E], over the pieces that see a row; in float32 where they are several."""
    rows = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    total = rows.index_select(0, layout.key_order)
    if not layout.later:
        return total
    dtype, total = total.dtype, total.float()
    for keys, places in layout.later:
        total.index_add_(0, keys, rows.index_select(0, places).float())
    return total.to(dtype)


@kept_constant(PIECE_LENGTH + SHORTEST_PIECE)
def _causal(length: int) -> Tensor:
    """float32 [L, L]: 0 where a token may look, -inf where it may not."""
    return torch.full((length, length), float("-inf")).triu(1)
