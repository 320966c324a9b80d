"""A document that is too long -> overlapping windows, each trained token in one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.batch import Features, slice_document
from framework.core.over_length import Shortened, answers_without_prompt, only_document
from framework.core.problems import Problem
from framework.core.samples import Sample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Makes several documents of it, each beginning with the last tokens of the one before."""

    overlap: int = setting(1, at_least=1)
    """Tokens that a window repeats, as context that is not trained again."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """A window must hold more than it repeats."""
        if self.overlap >= recipe.data.max_length:
            yield Problem(
                key=".overlap",
                what=f"{self.overlap} leaves no room in windows of {recipe.data.max_length} tokens",
                hint=f"write overlap: {max(1, recipe.data.max_length // 8)}",
            )
        yield from answers_without_prompt(recipe, "windows")

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """Windows of at most `max_length` tokens."""
        document = only_document(features)
        starts = range(0, len(document.tokens) - self.overlap, max_length - self.overlap)
        windows = (
            slice_document(
                document,
                start,
                start + max_length,
                first_trained=start + self.overlap if start else 1,
            )
            for start in starts
        )
        return Shortened(features=tuple(Features(documents=(one,)) for one in windows))
