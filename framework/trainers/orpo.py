"""Odds-ratio preference optimisation: pairs of answers, without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.protocols.training import Chat
from framework.core.samples import Preference, Sample
from framework.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class ORPO:
    """Odds-ratio preference optimisation (ORPO, Hong et al. 2024): supervised fine-tuning on chosen
    answers that makes rejected ones less likely, without a reference.

    A loss is the mean over pairs. The supervised part is a mean over the tokens of each chosen
    answer; prompts are not trained.
    """

    consumes: ClassVar[tuple[type[Sample], ...]] = (Preference,)
    packs: ClassVar[bool] = False

    beta: float = setting(0.1, above=0)
    """Weight of the odds ratio beside the supervised loss; lambda in the paper."""

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """Two documents."""
        assert isinstance(sample, Preference)
        return [Features(documents=chat.preference(sample))]

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum over pairs of -1/|w| log p(w|x) - beta log sigma(log odds(w) - log odds(l))."""
        from torch.nn.functional import logsigmoid

        from framework.losses.documents import mean_log_probabilities, pair_metrics
        from framework.losses.reference_free import log_odds_ratio

        means = mean_log_probabilities(policy.negative_log_likelihood(batch), batch)
        chosen, rejected = means
        log_odds = log_odds_ratio(chosen, rejected)
        supervised, odds = -chosen, -self.beta * logsigmoid(log_odds)
        metrics = pair_metrics((self.beta * chosen, self.beta * rejected), means)
        metrics |= {
            "sft_loss": supervised.detach().sum(),
            "log_odds_ratio": log_odds.detach().sum(),
        }
        both = supervised + odds
        return Loss(sum=both.sum(), metrics=metrics, of_samples=both.detach())
