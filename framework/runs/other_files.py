"""Recipe -> what else it reads besides data and the model: other models, adapters, single files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.registries import registry
from framework.core.settings import rule_of
from framework.data.reference import under_key
from framework.recipe.build import fields_of
from framework.recipe.document import KeyPath, dotted

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_SECTIONS = ("adapter", "trainer", "strategy", "evaluation")
"""Where a recipe may name such things."""


def other_places(recipe: Recipe) -> dict[str, Path]:
    """Key of the recipe -> the file or folder that it names, of teachers, reward models, adapters
    that training starts from, and whatever else a component reads.

    Raises:
        UserError: a model can't be fetched.
    """
    sections = ((name, getattr(recipe, name)) for name in _SECTIONS)
    return {dotted(key): path for name, value in sections for key, path in _named(value, (name,))}


def _named(value: Any, key: KeyPath) -> Iterator[tuple[KeyPath, Path]]:
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _named(item, (*key, index))
    if not dataclasses.is_dataclass(value):
        return
    if registry("model_sources").name_of(type(value)) is not None:
        source: Any = value
        yield key, under_key(dotted(key), source.fetch)
        return
    for name, field in fields_of(type(value)).items():
        rule, inner = rule_of(field), getattr(value, name)
        place = key if rule.inline else (*key, name)
        if rule.path and isinstance(inner, tuple):
            yield from (((*place, index), Path(one)) for index, one in enumerate(inner))
        elif rule.path and inner is not None:
            yield place, Path(inner)
        else:
            yield from _named(inner, place)
