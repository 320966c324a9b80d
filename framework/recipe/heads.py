"""What a trainer whose model gives numbers demands of the rest of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.protocols.models import Prefixing
from framework.core.registries import component_name

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

WHOLE = ("error", "drop")
"""What may become of a long document that is read at its end."""


def untrained_head() -> Problem:
    """The problem of an adapter that leaves the head as it is."""
    return Problem(
        key="adapter",
        what="leaves the model's head as it is, and nothing else turns texts into numbers",
        hint="choose its weights too: they are called `score`",
    )


def head_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Every conflict of a model with a head of numbers."""
    policy = component_name(recipe.data.over_length)
    if policy not in WHOLE:
        yield Problem(
            key="data.over_length",
            what=f"`{policy}` would cut documents, and the model is read at their ends",
            hint="write over_length: drop, or error",
        )
    if isinstance(recipe.adapter, Prefixing):
        yield Problem(
            key="adapter",
            what=f"{component_name(recipe.adapter)} puts tokens before each document, and trains "
            "no head beside them",
            hint="write adapter: lora",
        )
    evaluation = recipe.evaluation
    for key, written in (
        ("evaluation.evaluators", evaluation.evaluators),
        ("evaluation.num_generations", evaluation.num_generations),
    ):
        if written:
            yield Problem(
                key=key,
                what="asks the model for answers, and this one gives numbers",
                hint="remove it; `data.eval` measures the loss and the trainer's metrics",
            )
