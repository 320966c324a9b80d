"""A document that is too long -> an error that names its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.core.batch import Features
from framework.core.over_length import Shortened
from framework.core.samples import Sample, TooLong


@dataclass(frozen=True, kw_only=True)
class Error:
    """Ends the preparation, naming every such row."""

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """
        Raises:
            TooLong: always.
        """
        raise TooLong(
            f"becomes {features.num_tokens:,} tokens, data.max_length is {max_length:,}",
            hint=f"write data.max_length: {features.num_tokens}, or data.over_length: "
            "drop, truncate, split or windows",
            num_tokens=features.num_tokens,
        )
