"""A document that is too long -> an error that names its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from framework.core.batch import Features
from framework.core.over_length import Shortened
from framework.core.samples import Preference, Sample, TooLong, UnpairedPreference


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
        ways = "drop, truncate, split or windows"
        what = f"becomes {features.longest:,} tokens"
        if isinstance(sample, Preference | UnpairedPreference):
            ways = "drop, or {type: truncate, side: left}"
        if len(features.documents) > 1:
            what = f"becomes {len(features.documents)} documents, the longest of " + (
                f"{features.longest:,} tokens"
            )
        raise TooLong(
            f"{what}, data.max_length is {max_length:,}",
            hint=f"write data.max_length: {features.longest}, or data.over_length: {ways}",
            num_tokens=features.longest,
        )
