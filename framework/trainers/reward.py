"""Reward modelling: pairs of answers, the better one of which is to get the higher number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.heads import Head
from framework.core.problems import Problem
from framework.core.protocols.training import Chat
from framework.core.samples import Preference, Sample
from framework.core.settings import setting
from framework.recipe.heads import head_conflicts

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Learns a reward from pairs of answers (Bradley and Terry, 1952): what `ppo`, `grpo` and the
    cleaners may ask.

    The model's head reads the last token of prompt and answer; `final/` is a sequence
    classification model with one output.
    """

    center_rewards_coefficient: float = setting(0.0, at_least=0)
    """Weight of the squared sum of a pair's rewards, which keeps them around zero (Eisenstein et
    al., 2023: 0.01)."""
    margin_weight: float = setting(0.0, at_least=0)
    """The rewards of a pair have to differ by `margin_weight` times the row's `margin` (Touvron et
    al., 2023); every row then needs one."""

    consumes: ClassVar[tuple[type[Sample], ...]] = (Preference,)
    packs: ClassVar[bool] = False

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What a model with a head can't do."""
        return head_conflicts(recipe)

    def head(self) -> Head:
        """One output: the reward."""
        return Head(num_outputs=1)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """Two documents, and the pair's margin where it counts."""
        assert isinstance(sample, Preference)
        numbers = sample.margins(self.margin_weight)
        return [Features(documents=chat.read_at_end(sample), numbers=numbers)]

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """-sum log sigmoid(r_c - r_r - m), Touvron et al. 2023 (arXiv 2307.09288), equation 2;
        + c sum (r_c + r_r)^2, Eisenstein et al. 2023 (arXiv 2312.09244), equation 4."""
        from torch.nn import functional as F

        rewards = policy.logits(batch).float()
        chosen, rejected = rewards.view(-1, 2).unbind(-1)
        margin = self.margin_weight * batch.numbers if self.margin_weight else 0.0
        losses = -F.logsigmoid(chosen - rejected - margin)
        losses = losses + self.center_rewards_coefficient * (chosen + rejected).square()
        difference = (chosen - rejected).detach()
        return Loss(
            sum=losses.sum(),
            metrics={
                "reward_accuracy": (difference > 0).float().sum(),
                "reward_margin": difference.sum(),
                "chosen_reward": chosen.detach().sum(),
                "rejected_reward": rejected.detach().sum(),
            },
            of_samples=losses.detach(),
        )
