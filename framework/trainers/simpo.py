"""Simple preference optimisation: pairs of answers by their mean log-probabilities."""

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
class SimPO:
    """Simple preference optimisation (SimPO, Meng et al. 2024): an answer's reward is its mean
    log-probability, and rewards of a pair differ by a margin; without a reference.

    A loss is the mean over pairs.
    """

    consumes: ClassVar[tuple[type[Sample], ...]] = (Preference,)
    packs: ClassVar[bool] = False

    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    """Of what the rewards differ beyond the margin."""
    beta: float = setting(2.0, above=0)
    """Scale of the rewards."""
    gamma: float = setting(1.0, at_least=0)
    """Margin between the rewards of a pair; about half of `beta`."""
    margin_weight: float = setting(0.0, at_least=0)
    """The row's `margin`, times this, is added to `gamma`; every row then needs one."""
    cpo_alpha: float = setting(0.0, at_least=0)
    """Weight of a supervised loss on the chosen answer, its mean over tokens (CPO-SimPO)."""
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
        """Two documents, and the pair's margin where it counts."""
        assert isinstance(sample, Preference)
        numbers = sample.margins(self.margin_weight)
        return [Features(documents=chat.preference(sample), numbers=numbers)]

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum over pairs of L(r(w) - r(l) - gamma) - cpo_alpha/|w| log p(w|x), where
        r(y) = beta/|y| log p(y|x)."""
        from framework.losses.documents import mean_log_probabilities, pair_metrics
        from framework.losses.reference_free import hinge, smoothed_sigmoid

        means = mean_log_probabilities(policy.negative_log_likelihood(batch), batch)
        rewards = (self.beta * means[0], self.beta * means[1])
        difference = rewards[0] - rewards[1] - self.gamma
        if self.margin_weight:
            difference = difference - self.margin_weight * batch.numbers
        if self.loss_type == "hinge":
            losses = hinge(difference)
        else:
            losses = smoothed_sigmoid(difference, self.label_smoothing)
        metrics = pair_metrics(rewards, means)
        if self.cpo_alpha:
            losses = losses - self.cpo_alpha * means[0]
            metrics |= {"sft_loss": -means[0].detach().sum()}
        return Loss(sum=losses.sum(), metrics=metrics, of_samples=losses.detach())
