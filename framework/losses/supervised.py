"""Policy and batch -> what supervised trainers sum over the trained tokens.

Shapes: L labels, S samples, D documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from framework.core.batch import Batch, Loss, Policy
from framework.losses.cross_entropy import TokenScores
from framework.losses.documents import sample_means

Normalisation = Literal["token", "sequence"]
"""What the loss is the mean over."""


@runtime_checkable
class ScoringTokens(Protocol):
    """A policy that computes more of each label than its probability."""

    def token_scores(self, batch: Batch) -> TokenScores:
        """What variants of cross-entropy are made of."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenObjective:
    """What is minimised at a token, of the model's distribution there and its label."""

    dynamic: bool = False
    """Cross-entropy times the label's probability, without its gradient: dynamic fine-tuning
    (Wu et al., 2025, https://arxiv.org/abs/2508.05629, equation 9)."""
    label_smoothing: float = 0.0
    """epsilon: the label is (1 - epsilon) one-hot + epsilon uniform (Szegedy et al., 2016)."""
    z_loss: float = 0.0
    """Factor of log^2 Z, Z the softmax's normaliser (PaLM, Chowdhery et al., 2022, section 5)."""

    def __call__(self, policy: Policy, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """float32 [L], and by name what of it is to be known besides."""
        if not (self.dynamic or self.label_smoothing or self.z_loss):
            return policy.negative_log_likelihood(batch), {}
        assert isinstance(policy, ScoringTokens), "the model that is trained does"
        scores = policy.token_scores(batch)
        plain, smoothing = scores.cross_entropy, self.label_smoothing
        if self.dynamic:
            losses = plain * torch.exp(-plain.detach())
        else:
            losses = (1 - smoothing) * plain + smoothing * scores.uniform_cross_entropy
        if self.z_loss:
            losses = losses + self.z_loss * scores.log_normaliser.square()
        return losses, {"cross_entropy": plain}


def label_weights(batch: Batch, normalisation: Normalisation = "token") -> Tensor:
    """float32 [L]: how much each label counts; their sum is what the loss is divided by.

    A sample's weight is its only number, and 1 where samples have none. `token`: each label counts
    so much. `sequence`: all labels of a document together do.
    """
    if batch.numbers.numel():
        samples = torch.repeat_interleave(batch.sample_boundaries.diff())
        weights = batch.numbers[samples[batch.label_documents]]
    else:
        weights = torch.ones_like(batch.labels, dtype=torch.float32)
    if normalisation == "token":
        return weights
    counts = torch.bincount(batch.label_documents)
    return weights / counts[batch.label_documents]


def weighted_loss(
    losses: Tensor, weights: Tensor, metrics: Mapping[str, Tensor], batch: Batch
) -> Loss:
    """The sum of float32 [L] losses, and of metrics, each label times its weight."""
    return Loss(
        sum=(losses * weights).sum(),
        metrics={name: (value.detach() * weights).sum() for name, value in metrics.items()},
        of_samples=sample_means(losses, batch),
    )
