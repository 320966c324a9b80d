"""What a recipe says is trained of a text, where its rows have no such parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from framework.core.heads import head_of
from framework.core.problems import Problem
from framework.core.protocols.data import Deciding
from framework.core.samples import (
    Classified,
    Conversation,
    Preference,
    Sample,
    Scored,
    StepwiseSupervision,
    UnpairedPreference,
)
from framework.recipe.sample_words import words_for

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_RATED = (Preference, UnpairedPreference)
_EFFECTIVE: Mapping[str, tuple[type[Sample], ...]] = {
    "train_on": (Conversation,),
    "turns": (Conversation, *_RATED),
    "reasoning": (Conversation, *_RATED, Classified, Scored, StepwiseSupervision),
}
"""Setting of `data` -> the samples that become others by it."""


def masking_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Settings that would leave every row as it is."""
    data, consumed = recipe.data, recipe.trainer.method.consumes
    datasets = (*data.train, *data.eval)
    # Which of those that the trainer learns from a file decides on is known when it is read.
    kinds = {
        kind
        for one in datasets
        for kind in (consumed if isinstance(one.format, Deciding) else (one.format.produces,))
    }
    chosen = {
        "train_on": set(data.train_on) != {"assistant"},
        "turns": data.turns != "all",
        "reasoning": data.reasoning != "keep",
    }
    for name, is_chosen in chosen.items():
        effective = set(_EFFECTIVE[name])
        if name == "reasoning" and data.reasoning == "final":
            # A model with a head is read where it says, whatever is trained.
            effective = set() if head_of(recipe) else {Conversation, *_RATED}
        if is_chosen and not kinds & effective:
            words = " or ".join(sorted(map(words_for, kinds)))
            other = Conversation in consumed
            yield Problem(
                key=f"data.{name}",
                what=f"changes nothing about {words}",
                hint="leave it out" + ", or use a format that makes conversations" * other,
            )
