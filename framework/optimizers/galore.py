"""AdamW in the leading singular directions of each gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.core.settings import setting
from framework.recipe.optimization import whole_matrices_only

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.core.problems import Problem
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class GaLore:
    """GaLore: full training with the optimizer memory of low rank (Zhao et al., 2024).

    Matrices inside layers are projected; AdamW steps the rest, and matrices whose smaller side is
    not above the rank.
    """

    rank: int = setting(128, at_least=1)
    """Dimensions of the projected gradient."""
    update_interval: int = setting(200, at_least=1)
    """Steps until the projection is taken from the gradient anew, which costs an SVD of each."""
    scale: float = setting(0.25, above=0)
    """What projected updates are multiplied with: the paper's alpha."""
    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the running mean of projected gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of their squares."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """It is for whole matrices."""
        return whole_matrices_only(recipe, "galore")

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from framework.update_rules.low_rank import GaLoreAdamW

        return GaLoreAdamW(
            groups,
            learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            rank=self.rank,
            update_interval=self.update_interval,
            scale=self.scale,
        )
