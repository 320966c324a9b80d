"""Distillation: answers to learn, and a larger model's probabilities for their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.chat.supervised import supervised_features
from framework.core.batch import Batch, Features, Loss, Policy, TopPolicy
from framework.core.problems import Problem
from framework.core.protocols.models import ModelSource
from framework.core.protocols.training import Chat, Comparison
from framework.core.samples import Completion, Conversation, Sample, Tokenized
from framework.core.settings import setting, slot

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Distillation: learns to find each token of the answers as likely as a teacher does."""

    teacher: ModelSource = slot("model_sources", locator=True)
    """The model to learn from, written as `model.source` is; its tokenizer must have the same ids
    for the same tokens."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """What is minimised. `forward_kl`: KL(teacher || student), which covers all that the teacher
    finds likely. `reverse_kl`: KL(student || teacher), which leaves out what the teacher finds
    unlikely. `jsd`: the generalised Jensen-Shannon divergence between them (GKD)."""
    beta: float | None = setting(None, above=0, below=1)
    """Of `jsd`: near 0 it goes like the forward divergence, near 1 like the reverse one. None:
    0.5."""
    temperature: float = setting(1.0, above=0)
    """The logits of both are divided by it. The divergence is not multiplied by its square."""
    alpha: float = setting(1.0, above=0, at_most=1)
    """The divergence's part of the loss; the rest is cross-entropy with the answers' own tokens."""
    top_k: int | None = setting(None, at_least=1)
    """Ask the teacher once, before training, and keep the probabilities of so many tokens at each
    trained token, 8 bytes each, in the cache; it needs no memory then. All other tokens are
    compared as if they were one. None: the teacher is asked at every step."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Conversation, Completion, Tokenized)
    packs: ClassVar[bool] = True
    weighs_samples: ClassVar[bool] = True
    features_depend_on: ClassVar[tuple[str, ...]] = ()

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What belongs to another divergence, data that are never all there, tokens that no
        teacher knows."""
        if self.beta is not None and self.divergence != "jsd":
            yield Problem(
                key=".beta",
                what=f"belongs to `jsd`, the divergence is `{self.divergence}`",
                hint="remove it, or write divergence: jsd",
            )
        if self.top_k is not None and recipe.data.streaming is not None:
            yield Problem(
                key=".top_k",
                what="the teacher can't be asked beforehand about data that are streamed",
                hint="remove it, so that the teacher is asked at every step",
            )
        if recipe.tokenizer.add_tokens:
            yield Problem(
                key="tokenizer.add_tokens",
                what="the teacher doesn't know tokens that are added",
                hint="remove it, or save both models with these tokens first",
            )

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document for a sample, or one for each turn where the recipe says so."""
        return supervised_features(sample, chat)

    def num_items(self, batch: Batch) -> float:
        """Trained tokens, times their samples' weights."""
        from framework.losses.supervised import label_weights

        return float(label_weights(batch).sum())

    def compared_with(self) -> Comparison:
        """The teacher."""
        return Comparison(
            source=self.teacher,
            source_key="trainer.teacher",
            top_k=self.top_k,
            temperature=self.temperature,
        )

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """alpha D(student, teacher) + (1 - alpha) cross-entropy, summed over trained tokens."""
        from framework.losses import divergence
        from framework.losses.supervised import label_weights, weighted_loss

        assert reference is not None, "there is a teacher"
        objective = divergence.Distillation(
            divergence=self.divergence,
            beta=0.5 if self.beta is None else self.beta,
            temperature=self.temperature,
            alpha=self.alpha,
        )
        logits = policy.logits(batch)
        if isinstance(reference, TopPolicy):
            found = divergence.top_distillation_losses(
                logits, batch.labels, reference.top_tokens(batch), objective
            )
        else:
            found = divergence.distillation_losses(
                logits, batch.labels, reference.logits(batch), objective
            )
        metrics = {"divergence": found.divergence, "cross_entropy": found.cross_entropy}
        return weighted_loss(found.loss, label_weights(batch), metrics, batch)
