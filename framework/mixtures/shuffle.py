"""All datasets -> one stage, shuffled together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from framework.core.mixing import Stage


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Shuffles all datasets together, each in its share at any time."""

    def stages(self, weights: Mapping[str, float]) -> Sequence[Stage]:
        """One stage with every dataset."""
        return (Stage(share=1.0, weights=weights),)
