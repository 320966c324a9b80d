"""Schedule-free AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.protocols.models import Stepping
from framework.core.registries import component_name
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW:
    """AdamW with an average of its weights in place of a schedule (Defazio et al., 2024).

    Evaluation, `final/` and answers use the average; checkpoints hold what training goes on from.
    Warmup is the trainer's. Learning rates are larger than AdamW's, 1 to 10 times.
    """

    steps_numbers_apart: ClassVar[bool] = True

    beta1: float = setting(0.9, above=0, below=1)
    """Where gradients are taken: 1 at the average, 0 at the fast weights."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of squared gradients."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""
    polynomial_power: float = setting(0.0, at_least=0)
    """Weights of step t count as t to this power in the average; 0: all alike."""
    learning_rate_power: float = setting(2.0, at_least=0)
    """Weights count as the largest learning rate so far to this power in the average."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """schedulefree must be installed, and nothing else may schedule or average."""
        yield from missing_extra("schedulefree", "schedule-free", key="trainer.optimizer")
        schedule = component_name(recipe.trainer.lr_scheduler_type)
        if schedule != "constant":
            yield Problem(
                key="trainer.lr_scheduler_type",
                what=f"{schedule} lowers the learning rate, which schedule_free_adamw does without",
                hint="write `lr_scheduler_type: constant`; warmup may stay",
            )
        if isinstance(recipe.adapter, Stepping):
            yield Problem(
                key="trainer.optimizer",
                what=f"the average would not know what {component_name(recipe.adapter)} changes "
                "between steps",
                hint="write `optimizer: adamw`",
            )

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(
            [dict(group) for group in groups],
            lr=learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            r=self.polynomial_power,
            weight_lr_power=self.learning_rate_power,
        )
        optimizer.train()
        return optimizer

    def use_average(self, optimizer: Optimizer) -> None:
        """See `protocols.AveragingWeights`."""
        self._own(optimizer).eval()

    def use_trained(self, optimizer: Optimizer) -> None:
        """See `protocols.AveragingWeights`."""
        self._own(optimizer).train()

    def _own(self, optimizer: Optimizer) -> Any:
        from schedulefree import AdamWScheduleFree

        assert isinstance(optimizer, AdamWScheduleFree), type(optimizer).__name__
        return optimizer
