"""Samples -> the documents that are trained: encoded, within the longest length, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.batch import Features
from framework.core.protocols import Chat, OverLength, Trainer
from framework.core.samples import NumberedSample, RowError, Sample

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """What became of one row."""

    row: int
    features: tuple[Features, ...] = ()
    """What is trained, each within the longest length."""
    error: RowError | None = None
    """Why nothing is."""
    over_length: bool = False
    """The row was too long, whatever then became of it."""
    untrained: bool = False
    """Some of it has no token to train and is left out."""


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """Encodes one sample after the other; each by itself, so several processes can."""

    method: Trainer
    chat: Chat
    max_length: int
    policy: OverLength

    @staticmethod
    def of(recipe: Recipe, chat: Chat) -> RowEncoder:
        """The encoder that a recipe asks for."""
        return RowEncoder(
            method=recipe.trainer.method,
            chat=chat,
            max_length=recipe.data.max_length,
            policy=recipe.data.over_length,
        )

    def __call__(self, numbered: NumberedSample) -> EncodedRow:
        """What becomes of the row; a fault of the row is an `error` in it."""
        over_length = False
        fitting: list[Features] = []
        try:
            for features in self._encode(numbered.sample):
                if features.num_tokens <= self.max_length:
                    fitting.append(features)
                    continue
                over_length = True
                fitting += self._shorten(numbered.sample, features)
        except RowError as error:
            return EncodedRow(row=numbered.row, error=error, over_length=over_length)
        trained = tuple(features for features in fitting if _is_trained(features))
        return EncodedRow(
            row=numbered.row,
            features=trained,
            over_length=over_length,
            untrained=len(trained) < len(fitting),
        )

    def _encode(self, sample: Sample) -> Sequence[Features]:
        return self.method.features(sample, self.chat)

    def _shorten(self, sample: Sample, features: Features) -> Sequence[Features]:
        # A sample of several documents can't be cut without losing what ties them together.
        assert len(features.documents) == 1
        shorter = self.policy(sample, features, self.max_length, self._encode)
        assert all(one.num_tokens <= self.max_length for one in shorter)
        return shorter


def _is_trained(features: Features) -> bool:
    return any(True in document.trained for document in features.documents)
