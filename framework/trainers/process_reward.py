"""Process reward modelling: the steps of an answer, and how good each is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.heads import Head
from framework.core.problems import Problem
from framework.core.protocols.training import Chat
from framework.core.samples import Sample, StepwiseSupervision
from framework.core.settings import setting
from framework.recipe.heads import head_conflicts

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class ProcessReward:
    """Learns whether each step of an answer is right (process reward model; Lightman et al., 2023).

    The model's head reads the last token of every step; `final/` is a token classification model
    whose second output stands for a right step.
    """

    step_separator: str = setting("\n", not_empty=True)
    """What is put after every step; each step with it is tokenized by itself."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (StepwiseSupervision,)
    packs: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What a model with a head can't do."""
        return head_conflicts(recipe)

    def head(self) -> Head:
        """Wrong and right, at many tokens."""
        return Head(num_outputs=2, classes=("wrong", "right"), per_token=True)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document and a number for each of its steps."""
        assert isinstance(sample, StepwiseSupervision)
        document = chat.steps(sample, self.step_separator)
        return [Features(documents=(document,), numbers=sample.labels)]

    def num_items(self, batch: Batch) -> float:
        """Steps."""
        return batch.labels.numel()

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """-sum over steps of y log p(right) + (1 - y) log p(wrong)."""
        from framework.losses.documents import sample_means

        logits, right = policy.logits(batch).float(), batch.numbers
        logs = logits.log_softmax(-1)
        losses = -(right * logs[:, 1] + (1 - right) * logs[:, 0])
        agree = (logs[:, 1] > logs[:, 0]) == (right > 0.5)
        return Loss(
            sum=losses.sum(),
            metrics={"step_accuracy": agree.float().sum()},
            of_samples=sample_means(losses, batch),
        )
