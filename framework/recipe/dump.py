"""Recipe -> plain values that resolve to the same recipe, wherever they are read."""

from __future__ import annotations

import dataclasses
from typing import Any

from framework.core.registries import component_name
from framework.core.settings import rule_of
from framework.recipe.build import fields_of
from framework.recipe.resolve import Resolved


def recipe_values(resolved: Resolved) -> dict[str, Any]:
    """Every setting with its default, paths absolute, components as `{type: NAME, ...}`.

    What was read from the environment stays the `${...}` that was written: the values go to
    disk, and a secret must not.
    """
    values = component_values(resolved.recipe)
    for path, origin in resolved.origins.items():
        if not origin.from_environment:
            continue
        container = values
        for part in path[:-1]:
            container = container[part]
        container[path[-1]] = origin.interpolation
    return values


def component_values(value: Any) -> Any:
    """A section, a component or what is in them, with every default."""
    if isinstance(value, tuple):
        return [component_values(item) for item in value]
    if isinstance(value, dict):
        return dict(value)  # secrets are taken out of this one
    if not dataclasses.is_dataclass(value):
        return value
    name = component_name(value)
    found: dict[str, Any] = {} if name is None else {"type": name}
    for key, field in fields_of(type(value)).items():
        inner = component_values(getattr(value, key))
        if rule_of(field).inline:
            found.update(inner)
        else:
            found[key] = inner
    return found
