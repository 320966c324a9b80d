"""Numbers of labels -> numbers of documents, and of the two documents of each pair.

Shapes: L labels, D documents, S samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.core.batch import Batch


def document_sums(values: Tensor, batch: Batch) -> Tensor:
    """[D]: sums of [L] over the labels of each document; 0 for one without labels, and still
    connected to what the values depend on."""
    return torch.segment_reduce(values, "sum", lengths=label_counts(batch), initial=0)


def label_counts(batch: Batch) -> Tensor:
    """int64 [D]: the labels of each document."""
    return torch.bincount(batch.label_documents, minlength=batch.boundaries.numel() - 1)


def sample_means(values: Tensor, batch: Batch) -> Tensor:
    """float32 [S], detached: means of [L] over the labels of each sample; 0 for one without."""
    # Nothing here waits for a GPU, as counting how often each number occurs would.
    samples = torch.searchsorted(batch.sample_boundaries, batch.label_documents, right=True) - 1
    zeros = values.new_zeros(len(batch.sample_ids), dtype=torch.float32)
    sums = zeros.index_add(0, samples, values.detach().float())
    counts = zeros.index_add(0, samples, torch.ones_like(values, dtype=torch.float32))
    return sums / counts.clamp_min(1)


def in_pairs(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """([S], [S]): of [D], the first and the second document of each sample."""
    num_samples = len(batch.sample_ids)
    first, second = values[: 2 * num_samples].view(num_samples, 2).unbind(1)
    return first, second


def log_probabilities(losses: Tensor, batch: Batch, ld_alpha: float | None = None) -> Tensor:
    """float32 [D]: log p(answer | prompt), from the negative log-likelihood of the labels [L].

    Args:
        ld_alpha: weight of a pair's labels beyond the length of its shorter answer; LD-DPO, Liu et
            al. 2024 (arXiv 2409.06411). None: one.
    """
    if ld_alpha is None:
        return -document_sums(losses, batch)
    counts = label_counts(batch)
    shorter = torch.minimum(*in_pairs(counts, batch)).repeat_interleave(2)
    places = torch.arange(len(losses), device=losses.device)
    places = places - (counts.cumsum(0) - counts)[batch.label_documents]
    shared = places < shorter[batch.label_documents]
    weights = torch.where(shared, 1.0, ld_alpha)
    return -document_sums(losses * weights, batch)


def mean_log_probabilities(losses: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """float32 ([S], [S]): log p(answer | prompt) over the answer's tokens, of each pair's two."""
    means = -document_sums(losses, batch) / label_counts(batch).clamp_min(1)
    return in_pairs(means, batch)


def pair_metrics(
    rewards: tuple[Tensor, Tensor], log_probabilities: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """Sums over the pairs of what is logged of them.

    Args:
        rewards: implicit ones, of the chosen and of the rejected answers [S].
        log_probabilities: of both [S].
    """
    chosen, rejected = (reward.detach() for reward in rewards)
    log_chosen, log_rejected = (one.detach() for one in log_probabilities)
    return {
        "chosen_reward": chosen.sum(),
        "rejected_reward": rejected.sum(),
        "reward_margin": (chosen - rejected).sum(),
        "reward_accuracy": (chosen > rejected).float().sum(),
        "chosen_log_probability": log_chosen.sum(),
        "rejected_log_probability": log_rejected.sum(),
    }
