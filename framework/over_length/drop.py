"""A document that is too long -> nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.core.batch import Features
from framework.core.over_length import Shortened
from framework.core.samples import Sample


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Leaves it out, counted and listed."""

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """Nothing."""
        return Shortened()
