"""Logits and labels -> what losses of single tokens are made of, in one sweep with its gradient.

Shapes: L labels, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

LOGITS_CHUNK_ELEMENTS = 1 << 18
"""Logits that a CPU holds in float32 at a time: 1 MiB, which stays in a core's cache."""
LOGITS_CHUNK_ELEMENTS_ELSEWHERE = 1 << 22
"""The same of other devices: 16 MiB, which cost a GPU nothing that could be measured against the
head's matrix product."""


class TokenScores(NamedTuple):
    """What a loss may be made of; float32 [L] each."""

    cross_entropy: Tensor
    """-log p(label)."""
    log_normaliser: Tensor
    """log sum_v exp(logit_v)."""
    uniform_cross_entropy: Tensor
    """-1/V sum_v log p(v): what label smoothing mixes in."""


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """float32 [L]: cross-entropy of each label, from logits [L, V] of any float dtype.

    Exponentials and sums are float32, in chunks of rows. The gradient is computed in the same
    sweep, while the chunk is in the cache, and kept in the logits' dtype.
    """
    return _TokenLosses.apply(logits, labels)


def token_scores(logits: Tensor, labels: Tensor) -> TokenScores:
    """Cross-entropy and what variants of it need besides; each has its gradient.

    Memory is that of `token_losses`, time about a seventh more.
    """
    return TokenScores(*_TokenScores.apply(logits, labels))


def row_chunks(logits: Tensor) -> Iterator[slice]:
    """Rows whose float32 numbers are held at a time."""
    on_cpu = logits.device.type == "cpu"
    size = LOGITS_CHUNK_ELEMENTS if on_cpu else LOGITS_CHUNK_ELEMENTS_ELSEWHERE
    num_rows, row_length = logits.shape
    rows = max(1, size // row_length)
    if isinstance(logits, FakeTensor):
        # Whoever traces memory sees all of it in one of the equal parts.
        num_rows = min(rows, num_rows)
    for start in range(0, num_rows, rows):
        yield slice(start, start + rows)


def scaled_rows(gradient: Tensor, factors: Tensor) -> Tensor:
    """[L, V], in the gradient's dtype: each row times its factor, multiplied in float32."""
    scaled = torch.empty_like(gradient)
    for part in row_chunks(gradient):
        # In float32: a 16-bit factor would put the same relative error on every gradient.
        scaled[part] = gradient[part].float() * factors[part, None]
    return scaled


def sweep(logits: Tensor, labels: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """(float32 [L], float32 [L]): cross-entropy of each label, and its logits' log-normaliser.

    Args:
        gradient: [L, V], filled with d loss_i / d logits_i = softmax(logits_i) - one_hot(label_i);
            it may be the logits themselves.
    """
    losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
    normalisers = torch.empty_like(losses)
    for part in row_chunks(logits):
        # A copy even of float32 logits, which may not be ours to change.
        scores = logits[part].to(torch.float32, copy=True)
        wanted = labels[part, None]
        largest = scores.amax(-1, keepdim=True)
        scores -= largest
        chosen = scores.gather(-1, wanted)
        sums = scores.exp_().sum(-1, keepdim=True)
        log_sums = sums.log()
        losses[part] = (log_sums - chosen).squeeze(-1)
        normalisers[part] = (log_sums + largest).squeeze(-1)
        if gradient is not None:
            scores /= sums
            scores.scatter_add_(-1, wanted, torch.full_like(chosen, -1.0))
            gradient[part] = scores
    return losses, normalisers


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        losses, _ = sweep(logits, labels, gradient)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return scaled_rows(gradient, gradients[0]), None


class _TokenScores(torch.autograd.Function):
    """With p = softmax(logits_i), the gradients of the three scores of row i are
    p - one_hot(label_i), p, and p - 1/V."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        losses = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
        normalisers, uniform = torch.empty_like(losses), torch.empty_like(losses)
        probabilities = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for part in row_chunks(logits):
            scores = logits[part].to(torch.float32, copy=True)
            largest = scores.amax(-1, keepdim=True)
            scores -= largest
            chosen = scores.gather(-1, labels[part, None])
            mean = scores.mean(-1, keepdim=True)
            sums = scores.exp_().sum(-1, keepdim=True)
            log_sums = sums.log()
            losses[part] = (log_sums - chosen).squeeze(-1)
            normalisers[part] = (log_sums + largest).squeeze(-1)
            uniform[part] = (log_sums - mean).squeeze(-1)
            if probabilities is not None:
                probabilities[part] = scores.div_(sums)
        if probabilities is not None:
            ctx.save_for_backward(probabilities, labels, losses)
        return losses, normalisers, uniform

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        probabilities, labels, losses = ctx.saved_tensors
        of_loss, of_normaliser, of_uniform = gradients
        total = of_loss + of_normaliser + of_uniform
        spread = of_uniform / probabilities.shape[-1]
        # p - 1 of a label that is nearly certain, which 16-bit probabilities would round to 0.
        doubt = torch.expm1(-losses)
        at_label = of_loss * doubt + (of_normaliser + of_uniform) * (doubt + 1) - spread
        scaled = torch.empty_like(probabilities)
        for part in row_chunks(probabilities):
            rows = probabilities[part].float() * total[part, None] - spread[part, None]
            scaled[part] = rows.scatter_(-1, labels[part, None], at_label[part, None])
        return scaled, None
