"""Stochastic gradient descent of PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    steps_numbers_apart: ClassVar[bool] = True

    momentum: float = setting(0.0, at_least=0, below=1)
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Nesterov's momentum; needs `momentum` above 0."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Nesterov's is a momentum."""
        if self.nesterov and not self.momentum:
            yield Problem(
                key=".nesterov",
                what="there is no momentum that could be Nesterov's",
                hint="write `momentum: 0.9` beside it",
            )

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        import torch

        return torch.optim.SGD(
            [dict(group) for group in groups],
            lr=learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
