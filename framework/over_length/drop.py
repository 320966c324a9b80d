"""A document that is too long -> nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from framework.core.batch import Features
from framework.core.samples import Sample


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Leaves it out, counted and listed."""

    truncates: ClassVar[bool] = False

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Sequence[Features]:
        """Nothing."""
        return ()
