"""What a trainer's model ends in where it gives numbers instead of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


HEAD_NAMES = ("score", "classifier")
"""What the head is called in the models that transformers has."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear layer over the last hidden states, in the place of the output embeddings."""

    num_outputs: int
    classes: tuple[str, ...] = ()
    """What each output stands for; written into the saved model's configuration."""
    per_token: bool = False
    """Read at many tokens of a text (a token classification model in transformers) instead of at
    its last one (a sequence classification model)."""


@runtime_checkable
class Scoring(Protocol):
    """A trainer whose model has a head of numbers: its policy's `logits` are the head's outputs
    [L, num_outputs] at the trained tokens themselves."""

    def head(self) -> Head:
        """The head, which a checkpoint of a language model lacks and which then starts anew."""
        ...


def head_of(recipe: Recipe) -> Head | None:
    """The head of the recipe's model; None for a language model."""
    method = recipe.trainer.method
    return method.head() if isinstance(method, Scoring) else None
