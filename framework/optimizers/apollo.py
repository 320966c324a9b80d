"""Gradients scaled as AdamW would scale a random projection of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.settings import setting
from framework.recipe.optimization import whole_matrices_only

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.core.problems import Problem
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Apollo:
    """APOLLO: full training with hardly more memory than SGD (Zhu et al., 2024).

    Matrices inside layers are scaled by a projection; AdamW steps the rest, and matrices whose
    smaller side is not above the rank. APOLLO-Mini is `{rank: 1, factors: tensor, scale: 11.3}`.
    """

    rank: int = setting(256, at_least=1)
    """Dimensions of the projected gradient."""
    update_interval: int = setting(200, at_least=1)
    """Steps until another random projection is drawn; it takes no memory and no SVD."""
    factors: Literal["channel", "tensor"] = "channel"
    """What has a factor of its own: each channel of a matrix's longer side, or the matrix."""
    scale: float = setting(1.0, above=0)
    """What updates are multiplied with: the paper's alpha."""
    max_growth: float = setting(1.01, above=0)
    """Most that the norm of an update may be of the norm of the one before it."""
    seed: int = setting(0, at_least=0)
    """Of the random projections."""
    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the running mean of projected gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of their squares."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """It is for whole matrices."""
        return whole_matrices_only(recipe, "apollo")

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from framework.update_rules.low_rank import ApolloAdamW

        return ApolloAdamW(
            groups,
            learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            rank=self.rank,
            update_interval=self.update_interval,
            scale=self.scale,
            per_channel=self.factors == "channel",
            max_growth=self.max_growth,
            seed=self.seed,
        )
