"""Continued pre-training: raw text, the loss on every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from framework.chat.supervised import supervised_features
from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.protocols.training import Chat
from framework.core.samples import Document, Sample, Tokenized
from framework.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Continued pre-training: learns raw text, every token of it."""

    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Part of each label that is spread evenly over the vocabulary."""
    z_loss: float = setting(0.0, at_least=0)
    """Factor of log^2 Z, Z the sum of the exponentials of the logits, which keeps logits small;
    PaLM has 1e-4."""
    loss_normalisation: Literal["token", "sequence"] = "token"
    """What the loss is the mean over. `token`: all tokens of the global batch. `sequence`: its
    documents, each with the mean over its own tokens."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Document, Tokenized)
    packs: ClassVar[bool] = True
    weighs_samples: ClassVar[bool] = True
    features_depend_on: ClassVar[tuple[str, ...]] = ()

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document for a text."""
        return supervised_features(sample, chat)

    def num_items(self, batch: Batch) -> float:
        """Tokens, or documents, times their samples' weights."""
        from framework.losses.supervised import label_weights

        return float(label_weights(batch, self.loss_normalisation).sum())

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """Cross-entropy, -sum_t w_t log p(x_t | x_<t) over all tokens t, or a variant of it."""
        from framework.losses.supervised import TokenObjective, label_weights, weighted_loss

        objective = TokenObjective(label_smoothing=self.label_smoothing, z_loss=self.z_loss)
        losses, metrics = objective(policy, batch)
        weights = label_weights(batch, self.loss_normalisation)
        return weighted_loss(losses, weights, metrics, batch)
