"""Kahneman-Tversky optimisation: answers that are good or bad, compared with a reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.core.batch import Batch, Features, Limited, Loss, Policy
from framework.core.problems import Problem
from framework.core.protocols.training import Chat, Comparison
from framework.core.samples import Sample, UnpairedPreference
from framework.core.settings import setting
from framework.recipe.micro_batches import AUTO

if TYPE_CHECKING:
    from torch import Tensor

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class KTO:
    """Kahneman-Tversky optimisation (KTO, Ethayarajh et al. 2024): learns from answers that are
    each good or bad by themselves, compared with a reference: the model as it was before training.

    A loss is the mean over answers. How far the model has moved from the reference in general is
    estimated in every micro-batch, from the answers in it put after each other's prompts; so a
    larger `micro_batch_size` estimates better. An answer that is left alone, at the end of an epoch
    or of `data.eval`, is compared with an estimate of 0.
    """

    consumes: ClassVar[tuple[type[Sample], ...]] = (UnpairedPreference,)
    packs: ClassVar[bool] = False

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`apo_zero_unpaired`: rewards are compared with 0, and nothing is estimated."""
    beta: float = setting(0.1, above=0)
    """How closely the reference is kept to."""
    desirable_weight: float = setting(1.0, above=0)
    """Weight of good answers. With many of one kind, weights that make both count alike are good:
    the kinds' numbers times their weights should be within a third of each other."""
    undesirable_weight: float = setting(1.0, above=0)
    """Weight of bad answers."""
    precompute_reference: bool = False
    """Ask the reference about every answer once, before training; kept in the cache. Only for
    `apo_zero_unpaired`: else it is asked about answers that no row has. Without it an adapter is
    switched off to ask, and where all weights are trained, a second copy of the model is held."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The estimate needs answers of other prompts, which nobody asked about before."""
        if self.loss_type != "kto":
            return
        size = recipe.trainer.micro_batch_size
        if size == AUTO or size < 2:
            here = "here is one answer" if size == 1 else "`auto` doesn't say how many they are"
            yield Problem(
                key="trainer.micro_batch_size",
                what="`kto` puts the answers of a micro-batch after each other's prompts, and "
                f"{here}",
                hint="write micro_batch_size: 4, or loss_type: apo_zero_unpaired",
            )
        if self.precompute_reference:
            yield Problem(
                key=".precompute_reference",
                what="`kto` asks the reference about answers to other prompts, which change with "
                "the order of the rows",
                hint="write precompute_reference: false, or loss_type: apo_zero_unpaired",
            )

    def depends_on_company(self) -> bool:
        """See `protocols.InCompany`."""
        return self.loss_type == "kto"

    def lone_samples(self) -> str:
        """See `protocols.InCompany`."""
        return "compared with an estimate of 0" if self.loss_type == "kto" else ""

    def compared_with(self) -> Comparison:
        """The model before training."""
        return Comparison(precompute=self.precompute_reference)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """One document, and 1 for a good answer, 0 for a bad one."""
        assert isinstance(sample, UnpairedPreference)
        document = chat.unpaired_preference(sample)
        return [Features(documents=(document,), numbers=(float(sample.label),))]

    def num_items(self, batch: Batch) -> float:
        """Answers."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum over answers of weight(y) L(beta (log p(y|x) - log p_ref(y|x)), z)."""
        import torch

        from framework.losses.rated import RATED_LOSSES

        assert reference is not None
        # First: whoever averages gradients over processes expects a backward pass after the last.
        baseline = self._baseline(policy, reference, batch)
        log_probabilities = _log_probabilities(policy, batch)
        ratios = log_probabilities - _log_probabilities(reference, batch)
        desirable = batch.numbers > 0.5
        losses = RATED_LOSSES[self.loss_type](ratios, desirable, baseline, self.beta)
        weights = torch.where(desirable, self.desirable_weight, self.undesirable_weight)
        rewards = self.beta * ratios.detach()
        above = (rewards > self.beta * baseline) == desirable
        metrics = {
            "kl": baseline * len(batch.sample_ids),
            "reward_margin": torch.where(desirable, rewards, -rewards).sum(),
            "reward_accuracy": above.float().sum(),
            "log_probability": log_probabilities.detach().sum(),
        }
        of_samples = losses.detach()
        return Loss(sum=(weights * losses).sum(), metrics=metrics, of_samples=of_samples)

    def _baseline(self, policy: Policy, reference: Policy, batch: Batch) -> Tensor:
        """float32 []: max(0, mean of log p(y|x) - log p_ref(y|x)), y answers to other prompts."""
        import torch

        from framework.models.mismatched import mismatched

        if self.loss_type != "kto":
            return batch.numbers.new_zeros(())
        limit = policy.num_positions if isinstance(policy, Limited) else None
        others = mismatched(batch, limit)
        with torch.no_grad():
            ratios = _log_probabilities(policy, others) - _log_probabilities(reference, others)
        num_answers = len(batch.sample_ids)
        if num_answers == 1:
            # After its own prompt: compared with itself, the loss would be 1/2 whatever is learned.
            # It was asked all the same: processes that hold parts of the model ask together.
            return batch.numbers.new_zeros(())
        return (ratios.sum() / max(num_answers, 1)).clamp_min(0)


def _log_probabilities(policy: Policy, batch: Batch) -> Tensor:
    """float32 [S]: log p of each sample's answer."""
    from framework.losses.documents import log_probabilities

    return log_probabilities(policy.negative_log_likelihood(batch), batch)[: len(batch.sample_ids)]
