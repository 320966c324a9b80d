"""Contrastive preference optimisation: pairs of answers, without a reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.problems import Problem
from framework.core.protocols.training import Chat
from framework.core.samples import Preference, Sample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class CPO:
    """Contrastive preference optimisation (CPO, Xu et al. 2024): DPO with a uniform reference, and
    supervised fine-tuning on chosen answers beside it.

    A loss is the mean over pairs. The supervised part is a mean over the tokens of each chosen
    answer.
    """

    consumes: ClassVar[tuple[type[Sample], ...]] = (Preference,)
    packs: ClassVar[bool] = False

    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """`sigmoid`: CPO. `hinge`: SLiC. `ipo`: squared distance to a target, of means over tokens."""
    beta: float = setting(0.1, above=0)
    """Scale of the log-probabilities; for `ipo` the inverse of the target."""
    cpo_alpha: float = setting(1.0, at_least=0)
    """Weight of the supervised loss."""
    label_smoothing: float = setting(0.0, at_least=0, below=0.5)
    """Share of the pairs that are taken to be the wrong way round; for `sigmoid`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Smoothing is for the logistic loss alone."""
        if self.label_smoothing and self.loss_type != "sigmoid":
            yield Problem(
                key=".label_smoothing",
                what=f"changes nothing in `{self.loss_type}`",
                hint="leave it out, or write loss_type: sigmoid",
            )

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """Two documents."""
        assert isinstance(sample, Preference)
        return [Features(documents=chat.preference(sample))]

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum over pairs of L(beta (log p(w|x) - log p(l|x))) - cpo_alpha/|w| log p(w|x)."""
        from framework.losses.documents import (
            in_pairs,
            log_probabilities,
            mean_log_probabilities,
            pair_metrics,
        )
        from framework.losses.reference_free import hinge, smoothed_sigmoid, squared

        losses = policy.negative_log_likelihood(batch)
        means = mean_log_probabilities(losses, batch)
        scores = in_pairs(log_probabilities(losses, batch), batch)
        if self.loss_type == "ipo":
            scores = means
            preferred = squared(means[0] - means[1], self.beta)
        elif self.loss_type == "hinge":
            preferred = hinge(self.beta * (scores[0] - scores[1]))
        else:
            difference = self.beta * (scores[0] - scores[1])
            preferred = smoothed_sigmoid(difference, self.label_smoothing)
        supervised = -means[0]
        metrics = pair_metrics((self.beta * scores[0], self.beta * scores[1]), scores)
        metrics |= {"sft_loss": supervised.detach().sum()}
        both = preferred + self.cpo_alpha * supervised
        return Loss(sum=both.sum(), metrics=metrics, of_samples=both.detach())
