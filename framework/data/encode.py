"""Samples -> the documents that are trained: encoded, proven, within the longest length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from framework.core.batch import Features
from framework.core.over_length import Fate, both, fate_of
from framework.core.protocols import OverLength, Trainer
from framework.core.samples import NumberedSample, RowError, Sample
from framework.proofs.proven_chat import ProvenChat

if TYPE_CHECKING:
    from framework.chat.encoder import ChatEncoder
    from framework.recipe.schema import Recipe


class EncodedRow(NamedTuple):
    """What became of one row."""

    row: int
    features: tuple[Features, ...] = ()
    """What is trained, each within the longest length."""
    error: RowError | None = None
    """Why nothing is."""
    over_length: Fate | None = None
    """What became of the row because it was too long."""
    untrained: bool = False
    """Some of it has no token to train and is left out."""
    num_unproven: int = 0
    """Documents that a trainer made otherwise than by the encoder, whose masks nobody proved."""
    num_open: int = 0
    """Stretches of trained tokens that end in no token that ends an answer."""


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """Encodes one sample after the other; each by itself, so several processes can."""

    method: Trainer
    chat: ProvenChat
    max_length: int
    policy: OverLength

    @staticmethod
    def of(recipe: Recipe, chat: ChatEncoder) -> RowEncoder:
        """The encoder that a recipe asks for."""
        return RowEncoder(
            method=recipe.trainer.method,
            chat=ProvenChat(chat),
            max_length=recipe.data.max_length,
            policy=recipe.data.over_length,
        )

    def __call__(self, numbered: NumberedSample) -> EncodedRow:
        """What becomes of the row; a fault of the row is an `error` in it."""
        self.chat.start_row()
        fate: Fate | None = None
        num_unproven = 0
        fitting: list[Features] = []
        try:
            encoded = self._encode(numbered.sample)
            num_unproven = self.chat.num_unproven(encoded)
            for features in encoded:
                if features.num_tokens <= self.max_length:
                    fitting.append(features)
                    continue
                shortened = self.policy(numbered.sample, features, self.max_length, self._encode)
                self.chat.prove_pieces(numbered.sample, features, shortened, self.max_length)
                fitting += shortened.features
                fate = both(fate, fate_of(features, shortened))
        except RowError as error:
            return EncodedRow(row=numbered.row, error=error, over_length=fate)
        trained = tuple([features for features in fitting if features.num_trained_tokens])
        return EncodedRow(
            row=numbered.row,
            features=trained,
            over_length=fate,
            untrained=len(trained) < len(fitting),
            num_unproven=num_unproven,
            num_open=self.chat.num_open(trained, changed=fate is not None or num_unproven > 0),
        )

    def _encode(self, sample: Sample) -> Sequence[Features]:
        return self.method.features(sample, self.chat)
