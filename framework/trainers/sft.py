"""Supervised fine-tuning: conversations and completions, the loss on the trained turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.protocols import Chat
from framework.core.samples import Completion, Conversation, Sample, Tokenized


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Supervised fine-tuning: learns to answer as the assistant's turns do."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Conversation, Completion, Tokenized)
    packs: ClassVar[bool] = True

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document for a sample, or one for each turn where the recipe says so."""
        if isinstance(sample, Conversation):
            documents = chat.conversation(sample)
        elif isinstance(sample, Tokenized):
            documents = [chat.tokenized(sample)]
        else:
            assert isinstance(sample, Completion)
            documents = [chat.completion(sample)]
        return [Features(documents=(document,)) for document in documents]

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """Cross-entropy, -sum_t log p(x_t | x_<t) over the trained tokens t."""
        losses = policy.negative_log_likelihood(batch)
        return Loss(sum=losses.sum(), num_items=losses.numel())
