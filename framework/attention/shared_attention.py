"""Causal attention over documents of which common beginnings are computed once, on a CPU.

A token sees its own segment up to itself, and all of every segment that it continues. Each such
part is computed by itself; parts are joined by the logarithms of their normalisers, and each one's
gradient needs no more than what all parts gave together (FlashAttention-2, Dao, 2023,
https://arxiv.org/abs/2307.08691, section 3.1).

Shapes: T rows, K key heads with G query heads each, E numbers per head; N rows that continue a
segment of P.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from framework.attention.flat_attention import flat_backward, flat_forward, layout_of, softmax
from framework.core.batch import Segment, Shared

SCORES_AT_A_TIME = 1 << 19
"""Scores of a part that are computed together, at least those of one row: 2 MiB in float32, which a
cache holds."""


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: tuple[Segment, ...], scale: float
) -> Tensor:
    """Attention of every row to its own document's rows before it.

    Args:
        query: [T, K * G, E], of any float dtype.
        key: [T, K, E]
        value: [T, K, E]
        segments: of the row's forest.
        scale: what scores are multiplied by before the softmax.

    Returns:
        [T, K * G, E]
    """
    return _SharedAttention.apply(query, key, value, segments, scale)


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


class _Part(NamedTuple):
    """Rows `first` to `last` - 1 that look at all of rows `start` to `stop` - 1."""

    start: int
    stop: int
    first: int
    last: int


def _parts(segments: tuple[Segment, ...], width: int) -> Iterator[_Part]:
    """What each segment gives those that continue it, so few rows at a time as memory allows.

    Args:
        width: scores of one row and one column, K * G.
    """
    for start, stop, last in segments:
        step = max(1, SCORES_AT_A_TIME // (width * (stop - start)))
        for first in range(stop, last, step):
            yield _Part(start, stop, first, min(first + step, last))


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: tuple[Segment, ...],
        scale: float,
    ) -> Tensor:
        layout = layout_of(query, key, tuple(one.stop - one.start for one in segments))
        own, own_normalisers, saved = flat_forward(query, key, value, layout, scale, joins=True)
        assert own_normalisers is not None, "they are joined"
        num_keys = key.shape[1]
        q, outputs = _by_key(query, num_keys), _by_key(own, num_keys).float()
        k, v = _by_key(key, num_keys).squeeze(2), _by_key(value, num_keys).squeeze(2)
        # With one key head nothing is copied, and the segments' own are needed again.
        normalisers = _by_key(own_normalisers[..., None], num_keys).clone()
        for part in _parts(segments, query.shape[1]):
            rows, columns = slice(part.first, part.last), slice(part.start, part.stop)
            found, normaliser = _seen(q[:, rows], k[:, columns], v[:, columns], scale)
            before = normalisers[:, rows]
            after = torch.logaddexp(before, normaliser)
            outputs[:, rows].mul_((before - after).exp_())
            outputs[:, rows].add_(found.mul_((normaliser - after).exp_()))
            normalisers[:, rows] = after
        result = _by_token(outputs).to(query.dtype)
        normalisers = _by_token(normalisers).squeeze(-1)
        ctx.save_for_backward(query, key, value, result, normalisers, own_normalisers, *saved)
        ctx.segments, ctx.scale, ctx.layout = segments, scale, layout
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, normalisers, own_normalisers, *saved = ctx.saved_tensors
        (flow,) = gradients
        segments, scale, num_keys = ctx.segments, ctx.scale, key.shape[1]
        inner = (flow.float() * result.float()).sum(-1)
        # What is left of a segment's own part after all parts are joined.
        share = (own_normalisers - normalisers).exp_()
        own_flow = (flow * share[..., None]).to(flow.dtype)
        of_own = flat_backward(query, key, value, saved, own_flow, ctx.layout, scale, joined=result)
        of_q, of_k, of_v = (_by_key(one, num_keys).float() for one in of_own)
        of_k, of_v = of_k.squeeze(2), of_v.squeeze(2)
        q, flow = _by_key(query, num_keys), _by_key(flow, num_keys)
        k, v = _by_key(key, num_keys).squeeze(2), _by_key(value, num_keys).squeeze(2)
        inner, normalisers = (_by_key(one[..., None], num_keys) for one in (inner, normalisers))
        for part in _parts(segments, query.shape[1]):
            rows, columns = slice(part.first, part.last), slice(part.start, part.stop)
            for_queries, for_keys, for_values = _seen_backward(
                q[:, rows],
                k[:, columns],
                v[:, columns],
                flow[:, rows],
                inner[:, rows],
                normalisers[:, rows],
                scale,
            )
            of_q[:, rows] += for_queries
            of_k[:, columns] += for_keys
            of_v[:, columns] += for_values
        dtype = query.dtype
        return (
            _by_token(of_q).to(dtype),
            of_k.transpose(0, 1).to(dtype),
            of_v.transpose(0, 1).to(dtype),
            None,
            None,
        )


def _by_key(rows: Tensor, num_keys: int) -> Tensor:
    """[T, K * G, X] -> [K, T, G, X], so that the rows of a part lie together."""
    return rows.unflatten(1, (num_keys, -1)).transpose(0, 1).contiguous()


def _by_token(rows: Tensor) -> Tensor:
    """[K, T, G, X] -> [T, K * G, X]."""
    return rows.transpose(0, 1).flatten(1, 2)


# ---- what a segment is to those that continue it


def _seen(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of [K, N, G, E] to all of [K, P, E]: float32 [K, N, G, E], and the logarithms of
    the normalisers [K, N, G, 1]."""
    scores = torch.bmm(query.flatten(1, 2), key.transpose(1, 2)).float().mul_(scale)
    weights, normalisers = softmax(scores)
    found = torch.bmm(weights.to(value.dtype), value).float()
    shape = query.shape[:3]
    return found.view(*shape, -1), normalisers.view(*shape, 1)


def _seen_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    flow: Tensor,
    inner: Tensor,
    normalisers: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    Args:
        flow: [K, N, G, E], the gradient of what all parts gave together.
        inner: float32 [K, N, G, 1], its inner product with that.
        normalisers: float32 [K, N, G, 1], logarithms, of all parts together.
    """
    q, of_output = query.flatten(1, 2), flow.flatten(1, 2)
    weights = torch.bmm(q, key.transpose(1, 2)).float().mul_(scale)
    weights.sub_(normalisers.flatten(1, 2)).exp_()
    scores = torch.bmm(of_output, value.transpose(1, 2)).float()
    scores = scores.sub_(inner.flatten(1, 2)).mul_(weights).mul_(scale).to(q.dtype)
    for_values = torch.bmm(weights.to(q.dtype).transpose(1, 2), of_output)
    return (
        torch.bmm(scores, key).view(query.shape),
        torch.bmm(scores.transpose(1, 2), q),
        for_values,
    )
