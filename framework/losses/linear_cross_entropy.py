"""Hidden states, output layer and labels -> cross-entropy of each label, never all logits at once.

Shapes: L labels, H numbers of a hidden state, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from framework.losses.cross_entropy import row_chunks, sweep

SLICE_STEP = 64
"""Tokens of the vocabulary that are taken together at least."""


def linear_token_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, logits_bytes: int
) -> Tensor:
    """float32 [L]: what `token_losses` gives for the logits `hidden @ weight.T + bias`.

    The gradient is made in the forward pass, while the logits are there. Of an output layer that is
    trained and whose logits are more than `logits_bytes` they are computed again in the backward
    pass, some of the vocabulary at a time.

    Args:
        hidden: [L, H], in the dtype that logits are computed in.
        weight: [V, H], of any float dtype.
        bias: [V]
        logits_bytes: most bytes of logits, or of their gradient, at a time; at least one row's.
    """
    layer = [one for one in (weight, bias) if one is not None]
    if torch.is_grad_enabled() and any(one.requires_grad for one in layer):
        return _TrainedLayer.apply(hidden, weight, bias, labels, logits_bytes)
    return _FrozenLayer.apply(hidden, weight, bias, labels, logits_bytes)


class _FrozenLayer(torch.autograd.Function):
    """d loss_i / d hidden_i = (softmax(logits_i) - one_hot(label_i)) W."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        logits_bytes: int,
    ) -> Tensor:
        weight = weight.to(hidden.dtype)
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part, logits in _logits_in_parts(hidden, weight, bias, logits_bytes):
            into = None if gradient is None else logits
            losses[part], _ = sweep(logits, labels[part], into)
            if gradient is not None:
                torch.mm(logits, weight, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return _scaled(gradient, gradients[0]), None, None, None, None


class _TrainedLayer(torch.autograd.Function):
    """With G_i = softmax(logits_i) - one_hot(label_i) and u_i the gradient of loss i, the gradients
    are u_i G_i W of hidden state i, sum_i u_i G_i^T h_i of W, and sum_i u_i G_i of the bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        logits_bytes: int,
    ) -> Tensor:
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        normalisers = torch.empty_like(losses)
        size = len(labels) * len(weight) * hidden.element_size()
        kept: Tensor | None = None
        for part, logits in _logits_in_parts(hidden, weight.to(hidden.dtype), bias, logits_bytes):
            if size <= logits_bytes:
                kept = logits
            losses[part], normalisers[part] = sweep(logits, labels[part], kept)
        ctx.logits_bytes = logits_bytes
        ctx.save_for_backward(hidden, weight, bias, labels, normalisers, kept)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Once: where they wait in the machine's memory, each look at them fetches all.
        saved = ctx.saved_tensors
        hidden, weight, bias, *_ = saved
        factors = gradients[0]
        scaled = _scaled(hidden, factors)
        of_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for part, gradient in _gradient_in_parts(saved, ctx.logits_bytes):
            of_hidden += gradient @ weight[part].to(hidden.dtype)
            of_weight[part] = gradient.T @ scaled
            if of_bias is not None:
                of_bias[part] = factors @ gradient.float()
        return _scaled(of_hidden, factors).to(hidden.dtype), of_weight, of_bias, None, None


def _gradient_in_parts(saved: tuple[Any, ...], logits_bytes: int) -> Iterator[tuple[slice, Tensor]]:
    """(Tokens of the vocabulary, d loss_i / d their logits_i): all at once where they were kept."""
    hidden, weight, bias, labels, normalisers, kept = saved
    if kept is not None:
        yield slice(len(weight)), kept
        return
    size = logits_bytes // (max(1, len(labels)) * hidden.element_size())
    size = max(SLICE_STEP, size // SLICE_STEP * SLICE_STEP)
    for start in range(0, len(weight), size):
        part = slice(start, min(start + size, len(weight)))
        logits = _product(
            hidden, weight[part].to(hidden.dtype), None if bias is None else bias[part]
        )
        inside = (labels >= part.start) & (labels < part.stop)
        places = (labels - part.start).clamp_(0, part.stop - part.start - 1)
        for rows in row_chunks(logits):
            scores = logits[rows].float().sub_(normalisers[rows, None]).exp_()
            scores.scatter_add_(-1, places[rows, None], -inside[rows, None].float())
            logits[rows] = scores
        yield part, logits


def _logits_in_parts(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, logits_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    """(Rows, their logits), each written over those before."""
    rows = max(1, logits_bytes // (len(weight) * hidden.element_size()))
    memory = hidden.new_empty(min(rows, len(hidden)), len(weight))
    for start in range(0, len(hidden), rows):
        part = slice(start, min(start + rows, len(hidden)))
        yield part, _product(hidden[part], weight, bias, memory[: part.stop - start])


def _product(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None
) -> Tensor:
    if bias is None:
        return torch.mm(hidden, weight.T, out=out)
    return torch.addmm(bias.to(hidden.dtype), hidden, weight.T, out=out)


def _scaled(rows: Tensor, factors: Tensor) -> Tensor:
    """Each row times its float32 factor, in the rows' dtype."""
    # In float32: a 16-bit factor would put the same relative error on every gradient.
    return (rows.float() * factors[:, None]).to(rows.dtype)
