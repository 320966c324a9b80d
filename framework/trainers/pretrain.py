"""Continued pre-training: raw text, the loss on every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.protocols import Chat
from framework.core.samples import Document, Sample, Tokenized


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Continued pre-training: learns raw text, every token of it."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Document, Tokenized)
    packs: ClassVar[bool] = True

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document for a text."""
        if isinstance(sample, Tokenized):
            return [Features(documents=(chat.tokenized(sample),))]
        assert isinstance(sample, Document)
        return [Features(documents=(chat.document(sample),))]

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """Cross-entropy, -sum_t log p(x_t | x_<t) over all tokens t."""
        losses = policy.negative_log_likelihood(batch)
        return Loss(sum=losses.sum(), num_items=losses.numel())
