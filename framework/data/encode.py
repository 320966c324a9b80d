"""Samples -> the documents that are trained: encoded, proven, within the longest length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from framework.core.batch import Features
from framework.core.over_length import Fate, both, fate_of
from framework.core.protocols.data import OverLength
from framework.core.protocols.training import Online, Trainer
from framework.core.samples import NumberedSample, RowError, Sample, TooLong
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

    method: Trainer | Online
    chat: ProvenChat
    max_length: int
    policy: OverLength
    only_prompts: bool = False
    """Nothing of a sample is trained, all of it asks."""
    packing: bool = False
    """A sample has to fit into a pack as a whole."""

    @staticmethod
    def of(recipe: Recipe, chat: ChatEncoder) -> RowEncoder:
        """The encoder that a recipe asks for."""
        return RowEncoder(
            method=recipe.trainer.method,
            chat=ProvenChat(chat),
            max_length=recipe.data.max_length,
            packing=recipe.data.packing,
            policy=recipe.data.over_length,
            only_prompts=isinstance(recipe.trainer.method, Online),
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
                if self._length(features) <= self.max_length:
                    fitting.append(features)
                    continue
                shortened = self.policy(numbered.sample, features, self.max_length, self._encode)
                self.chat.prove_pieces(numbered.sample, features, shortened, self.max_length)
                fitting += [_with_numbers(piece, features) for piece in shortened.features]
                fate = both(fate, fate_of(features, shortened))
        except RowError as error:
            return EncodedRow(row=numbered.row, error=error, over_length=fate)
        if self.only_prompts:
            return EncodedRow(row=numbered.row, features=tuple(fitting), over_length=fate)
        trained = tuple([features for features in fitting if features.is_trained])
        return EncodedRow(
            row=numbered.row,
            features=trained,
            over_length=fate,
            untrained=len(trained) < len(fitting),
            num_unproven=num_unproven,
            num_open=self.chat.num_open(trained, changed=fate is not None or num_unproven > 0),
        )

    def _length(self, features: Features) -> int:
        """What the longest length limits."""
        return features.num_tokens if self.packing else features.longest

    def _encode(self, sample: Sample) -> Sequence[Features]:
        return self.method.features(sample, self.chat)


def _with_numbers(piece: Features, whole: Features) -> Features:
    """What an over-length policy cut out of a sample, with the number that the sample has.

    Raises:
        TooLong: the sample has several, which may belong to tokens that are cut away.
    """
    if piece.numbers or not whole.numbers:
        return piece
    if len(whole.numbers) > 1:
        raise TooLong(
            f"becomes {whole.num_tokens:,} tokens with numbers for some of them, and can't be cut",
            hint="write data.over_length: drop, or a larger data.max_length",
            num_tokens=whole.num_tokens,
        )
    return replace(piece, numbers=whole.numbers)
