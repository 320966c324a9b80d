"""Regression: a conversation or a text, and a number that is to be predicted for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.heads import Head
from framework.core.problems import Problem
from framework.core.protocols.training import Chat
from framework.core.samples import Sample, Scored
from framework.recipe.heads import head_conflicts

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Learns to predict a number for a conversation or a text.

    The model's head reads the last token; `final/` is a sequence classification model with one
    output.
    """

    loss_type: Literal["squared_error", "absolute_error", "huber"] = "squared_error"
    """What is minimised; `huber` is squared up to an error of 1 and absolute beyond."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Scored,)
    packs: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What a model with a head can't do."""
        return head_conflicts(recipe)

    def head(self) -> Head:
        """One output."""
        return Head(num_outputs=1)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document and its number."""
        assert isinstance(sample, Scored)
        return [Features(documents=chat.read_at_end(sample), numbers=(sample.score,))]

    def num_items(self, batch: Batch) -> float:
        """Rows."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum_i (f(x_i) - y_i)^2, or another distance."""
        from torch.nn import functional as F

        predicted = policy.logits(batch).float().squeeze(-1)
        errors = (predicted - batch.numbers).abs()
        losses = {
            "squared_error": errors.square(),
            "absolute_error": errors,
            "huber": F.huber_loss(predicted, batch.numbers, reduction="none"),
        }[self.loss_type]
        metrics = {"absolute_error": errors.detach().sum()}
        return Loss(sum=losses.sum(), metrics=metrics, of_samples=losses.detach())
