"""One key of a recipe -> its value, where the value comes from and what it does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from framework.core.problems import UserError, did_you_mean
from framework.core.registries import KINDS, component_name, registry
from framework.core.settings import documentation, rule_of, summary
from framework.recipe.build import fields_of
from framework.recipe.document import KeyPath, Origin, dotted, split_key
from framework.recipe.resolve import Resolved


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What there is to know about one key."""

    key: str
    value: str
    origin: str
    """`default`, `FILE:LINE:COLUMN` or `override N on the command line`, with the `${...}`."""
    documentation: str


def explain(resolved: Resolved, key: str) -> Explanation:
    """Explains one key.

    Raises:
        UserError: the recipe has no such key.
    """
    path = split_key(key)
    owner: Any = resolved.recipe
    text = ""
    for depth, part in enumerate(path):
        owner, text = _step(owner, part, path[:depth])
    origin = _origin(path, resolved)
    return Explanation(
        key=dotted(path),
        value=shown(owner if origin is None else _without_secrets(owner, path, resolved)),
        origin=describe_origin(path, resolved),
        documentation=" ".join((text or summary(type(owner))).split()),
    )


def explain_all(resolved: Resolved) -> list[Explanation]:
    """Every key of the recipe, defaults included, in the order of the schema."""
    return [explain(resolved, dotted(path)) for path in _leaves(resolved.recipe, ())]


def _without_secrets(value: Any, path: KeyPath, resolved: Resolved) -> Any:
    """The value, where it comes from the environment as it was written."""
    origin = resolved.origins.get(path)
    if origin is not None and origin.from_environment:
        return origin.interpolation
    if isinstance(value, dict):
        items = value.items()
        return {key: _without_secrets(item, (*path, key), resolved) for key, item in items}
    if isinstance(value, tuple):
        items = enumerate(value)
        return tuple(_without_secrets(item, (*path, at), resolved) for at, item in items)
    return value


def shown(value: Any) -> str:
    """A value as a recipe would write it; a component by its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return component_name(value) or "section"
    if isinstance(value, tuple):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def describe_origin(path: KeyPath, resolved: Resolved) -> str:
    """Where the value at `path` was written."""
    origin = _origin(path, resolved)
    if origin is None:
        return "default"
    if origin.kind == "override":
        place = f"override {origin.line} on the command line"
    else:
        place = f"{origin.file}:{origin.line}:{origin.column}"
    return f"{place}, from {origin.interpolation}" if origin.interpolation else place


def _origin(path: KeyPath, resolved: Resolved) -> Origin | None:
    """Of the value itself, or of the short form (`lora`, `./model`) that stands for it."""
    written: Any = resolved.values
    for depth, part in enumerate(path):
        if isinstance(written, dict):
            written = written.get(str(part), _MISSING)
        elif isinstance(written, list) and isinstance(part, int) and part < len(written):
            written = written[part]
        elif isinstance(written, str):
            # A name says which component; a locator also says where.
            is_locator = written not in _all_names()
            return resolved.origins.get(path[:depth]) if is_locator or part == "type" else None
        else:
            return None
        if written is _MISSING:
            return None
    return resolved.origins.get(path)


_MISSING = object()


def _all_names() -> set[str]:
    return {name for kind in KINDS for name in registry(kind).names()}


def _step(owner: Any, part: str | int, path: KeyPath) -> tuple[Any, str]:
    if isinstance(owner, tuple) and isinstance(part, int) and part < len(owner):
        return owner[part], ""
    if isinstance(owner, dict) and part in owner:
        return owner[part], ""
    names = _keys(owner)
    if part in names:
        holder, name = names[str(part)]
        if name == "type":
            return holder, summary(type(holder))
        return getattr(holder, name), documentation(type(holder)).get(name, "")
    where = f"`{dotted(path)}` has" if path else "the recipe has"
    raise UserError(f"{where} no key {str(part)!r}", did_you_mean(str(part), names))


def _keys(owner: Any) -> dict[str, tuple[Any, str]]:
    """Key -> (object that holds it, its field); an inlined component's keys are its section's."""
    if not dataclasses.is_dataclass(owner):
        return {}
    found: dict[str, tuple[Any, str]] = {}
    if component_name(owner) is not None:
        found["type"] = (owner, "type")
    for name, field in fields_of(type(owner)).items():
        value = getattr(owner, name)
        if rule_of(field).inline:
            found.update(_keys(value))
        else:
            found[name] = (owner, name)
    return found


def _leaves(value: Any, path: KeyPath) -> list[KeyPath]:
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        return [leaf for i, item in enumerate(value) for leaf in _leaves(item, (*path, i))]
    if not dataclasses.is_dataclass(value):
        return [path]
    found: list[KeyPath] = []
    for key, (holder, name) in _keys(value).items():
        place = (*path, key)
        found += [place] if name == "type" else _leaves(getattr(holder, name), place)
    return found
