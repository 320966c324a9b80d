"""Logits of a student and what is known of its teacher's -> losses of single tokens.

Shapes: L labels, V tokens in the vocabulary, R rows of a chunk, K tokens that are known of the
teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from framework.core.batch import TopTokens
from framework.losses.cross_entropy import row_chunks, scaled_rows

Kind = Literal["forward_kl", "reverse_kl", "jsd"]
"""How two distributions are compared."""
_Compared = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""A chunk of the student's logits over the temperature, float32 [R, V], and its rows -> float32
[R], the divergence; [R, V], its gradient."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a student is to minimise at a token."""

    divergence: Kind
    beta: float
    """Of `jsd`: the teacher's share in the mixture that both are compared with."""
    temperature: float
    """Logits of both are divided by it; the divergence is not multiplied by anything for it."""
    alpha: float
    """The divergence's part of the loss; the rest is cross-entropy, at temperature 1."""


class DistillationLosses(NamedTuple):
    """float32 [L] each; only the first has a gradient."""

    loss: Tensor
    divergence: Tensor
    cross_entropy: Tensor


def distillation_losses(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor, objective: Distillation
) -> DistillationLosses:
    """The losses of a student beside the teacher's logits, which are overwritten.

    Both are [L, V] of any float dtype. Where one has more columns than the other, those belong to
    no token and are left out of the divergence. float32 numbers are only ever those of a chunk of
    rows, and the gradient takes the place of the teacher's logits where dtype and shape allow.
    """
    common = min(logits.shape[-1], teacher_logits.shape[-1])

    def compared(scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        teacher = teacher_logits[part, :common].float() / objective.temperature
        values, slopes = _divergence(
            scores[:, :common].log_softmax(-1), teacher.log_softmax(-1), objective
        )
        if common == scores.shape[-1]:
            return values, slopes
        return values, torch.nn.functional.pad(slopes, (0, scores.shape[-1] - common))

    fits = teacher_logits.shape == logits.shape and teacher_logits.dtype == logits.dtype
    room = teacher_logits if fits and not teacher_logits.requires_grad else None
    return DistillationLosses(*_Distilled.apply(logits, labels, compared, objective, room))


def top_distillation_losses(
    logits: Tensor, labels: Tensor, teacher: TopTokens, objective: Distillation
) -> DistillationLosses:
    """The losses of a student beside the tokens that its teacher finds most likely.

    All other tokens are compared as if they were one: what the student gives to them together with
    what the teacher does. This is never more than the divergence over all tokens, and is that
    divergence when the teacher's tokens are all of them.
    """

    def compared(scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        ids, teacher_log = teacher.ids[part], teacher.log_probabilities[part]
        known = scores[:, : teacher.num_vocabulary]
        bins = known.gather(-1, ids)
        if teacher_log.shape[-1] == ids.shape[-1]:
            values, slopes = _divergence(bins.log_softmax(-1), teacher_log, objective)
            return values, torch.zeros_like(scores).scatter_(-1, ids, slopes)
        others = known.scatter(-1, ids, -math.inf)
        together = others.logsumexp(-1, keepdim=True)
        bins = torch.cat([bins, together], -1)
        values, slopes = _divergence(bins.log_softmax(-1), teacher_log, objective)
        spread = torch.zeros_like(scores)
        spread[:, : teacher.num_vocabulary] = others.sub_(together).exp_().mul_(slopes[:, -1:])
        return values, spread.scatter_(-1, ids, slopes[:, :-1])

    return DistillationLosses(*_Distilled.apply(logits, labels, compared, objective, None))


def top_tokens(logits: Tensor, count: int, temperature: float, num_vocabulary: int) -> TopTokens:
    """The `count` most likely tokens of logits [L, V], of which the first `num_vocabulary` columns
    count."""
    num_values = count if count == num_vocabulary else count + 1
    ids = torch.empty((len(logits), count), dtype=torch.int64, device=logits.device)
    values = torch.empty((len(logits), num_values), device=logits.device)
    for part in row_chunks(logits):
        scores = (logits[part, :num_vocabulary].float() / temperature).log_softmax(-1)
        values[part, :count], ids[part] = scores.topk(count)
        if count < num_vocabulary:
            values[part, count] = scores.scatter_(-1, ids[part], -math.inf).logsumexp(-1)
    return TopTokens(ids=ids, log_probabilities=values, num_vocabulary=num_vocabulary)


def _divergence(
    student_log: Tensor, teacher_log: Tensor, objective: Distillation
) -> tuple[Tensor, Tensor]:
    """([R], gradient [R, N] by the student's unnormalised logits) of log-probabilities [R, N].

    With p the student's and q the teacher's, and m = beta q + (1 - beta) p:
    forward KL(q || p); reverse KL(p || q); generalised Jensen-Shannon, beta KL(q || m) +
    (1 - beta) KL(p || m) (Agarwal et al., 2023, https://arxiv.org/abs/2306.13649, equation 1).
    """
    student = student_log.exp()
    if objective.divergence == "forward_kl":
        teacher = teacher_log.exp()
        return (teacher * (teacher_log - student_log)).sum(-1), student - teacher
    if objective.divergence == "reverse_kl":
        ratio = student_log - teacher_log
        values = (student * ratio).sum(-1)
        return values, student * (ratio - values[:, None])
    beta = objective.beta
    mixture_log = torch.logaddexp(teacher_log + math.log(beta), student_log + math.log1p(-beta))
    of_teacher = (teacher_log.exp() * (teacher_log - mixture_log)).sum(-1)
    ratio = student_log - mixture_log
    of_student = (student * ratio).sum(-1)
    # d/dp of both terms is (1 - beta) log(p / m): the rest cancels, as m holds both.
    slopes = (1 - beta) * student * (ratio - of_student[:, None])
    return beta * of_teacher + (1 - beta) * of_student, slopes


class _Distilled(torch.autograd.Function):
    """alpha divergence + (1 - alpha) cross-entropy; the gradient is computed in the same sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        compared: _Compared,
        objective: Distillation,
        room: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        divergences = torch.empty(len(labels), dtype=torch.float32, device=logits.device)
        plain = torch.empty_like(divergences)
        alpha, temperature = objective.alpha, objective.temperature
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(logits) if room is None else room
        for part in row_chunks(logits):
            scores = logits[part].to(torch.float32, copy=True)
            scores -= scores.amax(-1, keepdim=True)
            wanted = labels[part, None]
            log_sums = scores.logsumexp(-1, keepdim=True)
            plain[part] = (log_sums - scores.gather(-1, wanted)).squeeze(-1)
            divergences[part], slopes = compared(scores / temperature, part)
            if gradient is None:
                continue
            slopes *= alpha / temperature
            if alpha < 1:
                slopes += scores.sub_(log_sums).exp_().mul_(1 - alpha)
                slopes.scatter_add_(-1, wanted, torch.full_like(log_sums, alpha - 1))
            gradient[part] = slopes
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(divergences, plain)
        return alpha * divergences + (1 - alpha) * plain, divergences, plain

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scaled_rows(gradient, gradients[0]), None, None, None, None
