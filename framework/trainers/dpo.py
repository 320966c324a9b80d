"""Direct preference optimisation: pairs of answers, compared with what a reference says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from framework.core.batch import Batch, Features, Loss, Policy
from framework.core.problems import Problem, did_you_mean
from framework.core.protocols.training import Chat, Comparison
from framework.core.samples import Preference, Sample
from framework.core.settings import setting
from framework.recipe.micro_batches import AUTO

if TYPE_CHECKING:
    from torch import Tensor

    from framework.losses.preference import PairScores
    from framework.recipe.schema import Recipe

LossType = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "sigmoid_norm",
    "robust",
    "exo",
    "nca",
    "bco",
    "sppo",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
]
SMOOTHED = ("sigmoid", "robust", "exo", "aot", "aot_unpaired")
WITH_MARGIN = ("sigmoid", "hinge", "sigmoid_norm", "robust", "exo", "discopop")
SORTED = ("aot", "aot_unpaired")
"""Losses that `label_smoothing` and `margin_weight` change, and that compare pairs of a batch."""


@dataclass(frozen=True, kw_only=True)
class DPO:
    """Direct preference optimisation (DPO, Rafailov et al. 2023) and the losses that grew from it.

    Learns from pairs of answers to prefer one over the other, without moving further than needed
    from a reference: the model as it was before training. A loss is the mean over pairs.
    """

    consumes: ClassVar[tuple[type[Sample], ...]] = (Preference,)
    packs: ClassVar[bool] = False

    loss_type: LossType | dict[str, float] = "sigmoid"
    """The loss of a pair, or several with weights: `{sigmoid: 0.8, bco: 0.2}`. `sigmoid`: DPO.
    `hinge`: SLiC. `ipo`: squared distance to a target, of means over tokens. `sigmoid_norm`: DPO on
    means over tokens. `robust`: DPO where `label_smoothing` of the pairs are wrong. `exo`: reverse
    KL. `nca`, `bco`: each answer classified by itself. `sppo`: each answer's reward has a target.
    `aot`: the sorted rewards of a micro-batch are compared, in `aot_unpaired` those of each side.
    `apo_zero`: for chosen answers better than the model's own; `apo_down`: for worse ones.
    `discopop`: a loss found by search."""
    beta: float = setting(0.1, above=0)
    """How closely the reference is kept to; for `ipo` and `sppo` the inverse of the target."""
    label_smoothing: float = setting(0.0, at_least=0, below=0.5)
    """Share of the pairs that are taken to be the wrong way round; for `sigmoid`, `robust`, `exo`
    (which needs it), `aot` and `aot_unpaired`."""
    discopop_tau: float = setting(0.05, above=0)
    """Temperature of `discopop`."""
    rpo_alpha: float = setting(0.0, at_least=0)
    """Weight of a supervised loss on the chosen answer, its mean over tokens (RPO, Pang et al.
    2024)."""
    ld_alpha: float | None = setting(None, at_least=0, at_most=1)
    """Weight of the tokens of an answer beyond the length of the other one (LD-DPO, Liu et al.
    2024); None: 1."""
    margin_weight: float = setting(0.0, at_least=0)
    """The rewards of a pair have to differ by `margin_weight` times the row's `margin` (ODPO, Amini
    et al. 2024); every row then needs one. For `sigmoid`, `hinge`, `sigmoid_norm`, `robust`, `exo`
    and `discopop`."""
    precompute_reference: bool = False
    """Ask the reference about every pair once, before training; it then takes no time and no memory
    in training. Kept in the cache. Else an adapter is switched off to ask, and where all weights
    are trained, a second copy of the model is held."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from self._check_names()
        names = self._weights()
        if self.label_smoothing and not any(name in SMOOTHED for name in names):
            yield _without_effect("label_smoothing", SMOOTHED)
        if "exo" in names and not self.label_smoothing:
            yield Problem(
                key=".label_smoothing",
                what="must be above 0 for `exo`",
                hint="write label_smoothing: 0.001",
            )
        if self.margin_weight and not any(name in WITH_MARGIN for name in names):
            yield _without_effect("margin_weight", WITH_MARGIN)
        size = recipe.trainer.micro_batch_size
        for name in SORTED:
            if name in names and (size == AUTO or size < 2):
                there = "there is one" if size == 1 else "`auto` doesn't say how many there are"
                yield Problem(
                    key="trainer.micro_batch_size",
                    what=f"`{name}` sorts the pairs of a micro-batch, and {there}",
                    hint="write micro_batch_size: 8",
                )

    def _check_names(self) -> Iterator[Problem]:
        names: tuple[str, ...] = get_args(LossType)
        if not self._weights():
            hint = "write loss_type: sigmoid"
            yield Problem(key=".loss_type", what="names no loss", hint=hint)
        for name, weight in self._weights().items():
            if name not in names:
                yield Problem(
                    key=".loss_type",
                    what=f"{name!r} is not one of its losses",
                    hint=did_you_mean(name, names),
                )
            if weight <= 0:
                yield Problem(
                    key=".loss_type",
                    what=f"the weight of {name} must be above 0, is {weight:g}",
                    hint="leave it out, or give it a weight",
                )

    def _weights(self) -> Mapping[str, float]:
        one = self.loss_type
        return {one: 1.0} if isinstance(one, str) else one

    def depends_on_company(self) -> bool:
        """See `protocols.InCompany`."""
        return any(name in SORTED for name in self._weights())

    def lone_samples(self) -> str:
        """See `protocols.InCompany`: a pair that is sorted alone is as it was."""
        return ""

    def compared_with(self) -> Comparison:
        """The model before training."""
        return Comparison(precompute=self.precompute_reference)

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """Two documents, and the pair's margin where it counts."""
        assert isinstance(sample, Preference)
        numbers = sample.margins(self.margin_weight)
        return [Features(documents=chat.preference(sample), numbers=numbers)]

    def num_items(self, batch: Batch) -> float:
        """Pairs."""
        return len(batch.sample_ids)

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """sum over pairs of sum_k weight_k loss_k + rpo_alpha L_SFT(chosen)."""
        import torch

        from framework.losses.documents import mean_log_probabilities, pair_metrics
        from framework.losses.preference import PREFERENCE_LOSSES, Shape

        assert reference is not None
        losses = policy.negative_log_likelihood(batch)
        pairs = self._scores(losses, reference.negative_log_likelihood(batch), batch)
        shape = Shape(
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            discopop_tau=self.discopop_tau,
        )
        weights = dict(self._weights())
        of_pairs = {name: PREFERENCE_LOSSES[name](pairs, shape) for name in weights}
        if self.rpo_alpha:
            weights["sft"] = -self.rpo_alpha
            of_pairs["sft"] = mean_log_probabilities(losses, batch)[0]
        parts = {name: weights[name] * of_each.sum() for name, of_each in of_pairs.items()}
        rewards = (self.beta * pairs.chosen_ratio, self.beta * pairs.rejected_ratio)
        metrics = pair_metrics(rewards, (pairs.chosen, pairs.rejected))
        if len(parts) > 1:
            metrics |= {f"{name}_loss": part.detach() for name, part in parts.items()}
        of_samples = None
        if not any(name in SORTED for name in of_pairs):
            weighted = [weights[name] * one.detach() for name, one in of_pairs.items()]
            of_samples = torch.stack(weighted).sum(0)
        total = torch.stack(list(parts.values())).sum()
        return Loss(sum=total, metrics=metrics, of_samples=of_samples)

    def _scores(self, losses: Tensor, of_reference: Tensor, batch: Batch) -> PairScores:
        from framework.losses.documents import in_pairs, label_counts, log_probabilities
        from framework.losses.preference import PairScores

        chosen, rejected = in_pairs(log_probabilities(losses, batch, self.ld_alpha), batch)
        reference = in_pairs(log_probabilities(of_reference, batch, self.ld_alpha), batch)
        num_chosen, num_rejected = in_pairs(label_counts(batch), batch)
        offset = self.margin_weight * batch.numbers if self.margin_weight else chosen.new_zeros(())
        return PairScores(
            chosen=chosen,
            rejected=rejected,
            reference_chosen=reference[0],
            reference_rejected=reference[1],
            num_chosen_tokens=num_chosen,
            num_rejected_tokens=num_rejected,
            offset=offset,
        )


def _without_effect(key: str, losses: Sequence[str]) -> Problem:
    return Problem(
        key=f".{key}",
        what=f"changes none of the losses of `loss_type`, only {', '.join(losses)}",
        hint=f"leave out {key}, or choose one of these",
    )
