"""What trainers that compare, answers or models, demand of the rest of the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.protocols.models import AltersWeights
from framework.core.protocols.training import Comparing
from framework.core.registries import component_name
from framework.core.samples import Preference, UnpairedPreference
from framework.recipe.micro_batches import units_of_a_pass

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def rows_hold_several_documents(recipe: Recipe) -> bool:
    """Whether a forward pass has documents that must not see each other."""
    units = units_of_a_pass(recipe)
    several = units is None or units.number > 1
    return several or recipe.data.packing or learns_from_pairs(recipe)


def learns_from_pairs(recipe: Recipe) -> bool:
    """Whether each sample is two documents."""
    return Preference in recipe.trainer.method.consumes


def comparison_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Every conflict of comparing answers, or the trained model with another."""
    yield from _answers(recipe)
    yield from _reference(recipe)


def _answers(recipe: Recipe) -> Iterator[Problem]:
    consumed = recipe.trainer.method.consumes
    if not any(kind in consumed for kind in (Preference, UnpairedPreference)):
        return
    if recipe.model.attention == "eager" and learns_from_pairs(recipe):
        yield Problem(
            key="model.attention",
            what="eager attention takes one document at a time, and a pair of answers is two",
            hint="write attention: sdpa",
        )


def _reference(recipe: Recipe) -> Iterator[Problem]:
    method, adapter = recipe.trainer.method, recipe.adapter
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if comparison is None:
        return
    if comparison.precompute and recipe.data.streaming is not None:
        yield Problem(
            key="trainer.precompute_reference",
            what="a stream is never read as a whole before training",
            hint="write precompute_reference: false, or prepare the data instead of streaming it",
        )
    own = comparison.source is None and not comparison.precompute
    if own and isinstance(adapter, AltersWeights) and adapter.alters_weights():
        yield Problem(
            key="trainer.precompute_reference",
            what=f"the adapter {component_name(adapter)} starts from another model than the one "
            "without it, so that switched off it is no reference",
            hint="write precompute_reference: true, or settings of the adapter that begin with "
            "the model as it is",
        )
