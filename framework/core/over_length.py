"""What an over-length policy makes of a document that is too long, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.batch import Encoded, Features
from framework.core.problems import Problem
from framework.core.samples import Preference, TooLong, UnpairedPreference

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """What is trained in the place of a document that is too long."""

    features: tuple[Features, ...] = ()
    """Each within the longest length; none when it is dropped."""
    truncated: bool = False
    """Tokens are left out on purpose; else each stands in one of `features`."""
    num_cut_answers: int = 0
    """Answers that are trained without their end, and so without the token at which to stop."""
    dropped: tuple[str, ...] = ()
    """Parts that are left out while others stay, such as `messages 3 to 4 (512 tokens)`."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of a row that was too long; several of these when it was several documents."""

    cut: bool = False
    """Tokens were taken out of it."""
    split: bool = False
    """It became several samples, or one without parts that are too long by themselves."""
    dropped: bool = False
    num_cut_answers: int = 0
    num_lost_tokens: int = 0
    """Tokens that would have been trained and are not."""
    dropped_parts: tuple[str, ...] = ()


def fate_of(features: Features, shortened: Shortened) -> Fate:
    """What the policy made of `features`."""
    pieces = shortened.features
    split = len(pieces) > 1 or bool(pieces and shortened.dropped)
    left = sum(piece.num_trained_tokens for piece in pieces)
    return Fate(
        cut=bool(pieces) and not split,
        split=split,
        dropped=not pieces,
        num_cut_answers=shortened.num_cut_answers,
        num_lost_tokens=max(features.num_trained_tokens - left, 0),
        dropped_parts=shortened.dropped,
    )


def both(one: Fate | None, other: Fate) -> Fate:
    """The fate of a row of which several documents were too long."""
    if one is None:
        return other
    return Fate(
        cut=one.cut or other.cut,
        split=one.split or other.split,
        dropped=one.dropped or other.dropped,
        num_cut_answers=one.num_cut_answers + other.num_cut_answers,
        num_lost_tokens=one.num_lost_tokens + other.num_lost_tokens,
        dropped_parts=one.dropped_parts + other.dropped_parts,
    )


def only_document(features: Features) -> Encoded:
    """The document of a sample that has one.

    Raises:
        TooLong: it has several, and cutting one would leave the others without what they belong to.
    """
    document, *others = features.documents
    if others:
        raise TooLong(
            f"becomes {len(others) + 1} documents that belong together, "
            f"the longest of {features.longest:,} tokens, and can't be cut",
            hint="write data.over_length: drop, or a larger data.max_length",
            num_tokens=features.longest,
        )
    return document


def answers_without_prompt(recipe: Recipe, policy: str) -> Iterator[Problem]:
    """A problem for a policy that makes several samples of one, where answers are compared."""
    if any(kind in recipe.trainer.method.consumes for kind in (Preference, UnpairedPreference)):
        yield Problem(
            key="data.over_length",
            what=f"`{policy}` would leave answers that are rated without their prompts",
            hint="write over_length: drop, or over_length: {type: truncate, side: left}",
        )
