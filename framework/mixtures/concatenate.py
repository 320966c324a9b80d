"""All datasets -> one stage for each, in the recipe's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from framework.core.mixing import Stage


@dataclass(frozen=True, kw_only=True)
class Concatenate:
    """Trains one dataset after the other, in the order of the recipe, each shuffled in itself."""

    def stages(self, weights: Mapping[str, float]) -> Sequence[Stage]:
        """A stage for each dataset, as large as its share."""
        return tuple(Stage(share=share, weights={name: 1.0}) for name, share in weights.items())
