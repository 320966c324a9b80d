"""Supervised fine-tuning: conversations and completions, the loss on the trained turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.chat.supervised import supervised_features
from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.problems import Problem
from framework.core.protocols.training import Chat
from framework.core.samples import Completion, Conversation, Sample, Tokenized
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Supervised fine-tuning: learns to answer as the assistant's turns do."""

    loss_type: Literal["cross_entropy", "dft"] = "cross_entropy"
    """What is minimised at each trained token. `dft`: cross-entropy times the probability that the
    model gives the token (dynamic fine-tuning), so that what it finds unlikely is learned less."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Part of each label that is spread evenly over the vocabulary."""
    z_loss: float = setting(0.0, at_least=0)
    """Factor of log^2 Z, Z the sum of the exponentials of the logits, which keeps logits small;
    PaLM has 1e-4."""
    loss_normalisation: Literal["token", "sequence"] = "token"
    """What the loss is the mean over. `token`: all trained tokens of the global batch. `sequence`:
    its documents, each with the mean over its own trained tokens, so that long answers count no
    more than short ones."""
    neftune_noise_alpha: float | None = setting(None, above=0)
    """Uniform noise of up to alpha / sqrt(n d) on the input embeddings in training, n tokens in the
    document and d numbers in an embedding (NEFTune). None: none; its authors have 5 to 15."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Conversation, Completion, Tokenized)
    packs: ClassVar[bool] = True
    weighs_samples: ClassVar[bool] = True
    features_depend_on: ClassVar[tuple[str, ...]] = ()

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Label smoothing has other labels than the one whose probability DFT weighs with."""
        if self.loss_type == "dft" and self.label_smoothing:
            yield Problem(
                key=".label_smoothing",
                what="can't be used with `loss_type: dft`, which knows one label for each token",
                hint="write label_smoothing: 0, or loss_type: cross_entropy",
            )

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document for a sample, or one for each turn where the recipe says so."""
        return supervised_features(sample, chat)

    def num_items(self, batch: Batch) -> float:
        """Trained tokens, or documents, times their samples' weights."""
        from framework.losses.supervised import label_weights

        return float(label_weights(batch, self.loss_normalisation).sum())

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """Cross-entropy, -sum_t w_t log p(x_t | x_<t) over trained tokens t, or a variant of it."""
        from framework.losses.supervised import TokenObjective, label_weights, weighted_loss

        objective = TokenObjective(
            dynamic=self.loss_type == "dft",
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )
        losses, metrics = objective(policy, batch)
        weights = label_weights(batch, self.loss_normalisation)
        return weighted_loss(losses, weights, metrics, batch)
