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

    What was read from the environment stays the `${oc.env:...}` that was written: the values go to
    disk, and a secret must not.
    """
    values = _plain(resolved.recipe)
    for path, origin in resolved.origins.items():
        if "oc.env" not in origin.interpolation:
            continue
        container = values
        for part in path[:-1]:
            container = container[part]
        container[path[-1]] = origin.interpolation
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    name = component_name(value)
    found: dict[str, Any] = {} if name is None else {"type": name}
    for key, field in fields_of(type(value)).items():
        inner = _plain(getattr(value, key))
        if rule_of(field).inline:
            found.update(inner)
        else:
            found[key] = inner
    return found
