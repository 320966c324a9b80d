"""The recipe's dataclasses -> docs/recipe-reference.md and framework/schemas."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from framework.cli import schema
from framework.core.registries import KINDS, registry
from framework.core.settings import Rule, documentation, required, rule_of, summary
from framework.launching.cluster import Cluster
from framework.launching.sweep import Sweep
from framework.planning.devices import Device
from framework.recipe.build import field_types, fields_of
from framework.recipe.schema import Recipe

PAGE = Path(__file__).with_name("recipe-reference.md")

INTRODUCTION = """\
# Recipe reference

Written by `make docs` from the code that reads recipes.

A recipe is one YAML file. Besides the sections below it may have `extends:`, a recipe file (or a
list of them, relative to this one) over which it is laid. `key=value` on the command line sets a
key (`trainer.learning_rate=1e-4`, `data.train[0].rows=:100`), `+key=value` adds one or appends to
a list.

Where a component stands, write its name (`adapter: lora`) or a mapping with its `type` and its own
keys (`adapter: {type: lora, r: 8}`). `framework explain recipe.yaml KEY` says what a key is in
your recipe and where that comes from; `framework list` says which components there are.
"""

_NAMES = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "anything",
}


def reference() -> str:
    """The whole page."""
    lines = [INTRODUCTION, "## Sections", ""]
    for path, owner in _sections():
        lines += [f"### {path}", "", f"{summary(owner)}", "", *_table(owner), ""]
    for kind in KINDS:
        names = registry(kind).names()
        lines += [f"## {_title(kind)}", ""]
        for name in names:
            component = registry(kind).get(name)
            lines += [f"### {kind}: {name}", "", inspect.getdoc(component) or "", ""]
            lines += [*_table(component), ""] if fields_of(component) else []
    lines += ["## Cluster file", "", f"{summary(Cluster)}", "", *_table(Cluster), ""]
    lines += ["## Sweep file", "", f"{summary(Sweep)}", "", *_table(Sweep), ""]
    lines += ["## Device table", "", f"Under each name: {summary(Device)}", ""]
    lines += [*_table(Device), ""]
    lines += ["## Sections of components", ""]
    for section, places in _component_sections().items():
        lines += [f"### {', '.join(places)}", "", summary(section), "", *_table(section), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sections() -> Iterator[tuple[str, type]]:
    """(dotted path, dataclass) of every section, the ones inside others included."""
    yield "recipe", Recipe
    yield from _inner("", Recipe)


def _component_sections() -> dict[type, list[str]]:
    """Dataclass -> where it stands, of every section that is a component's key."""
    found: dict[type, list[str]] = {}
    for kind in KINDS:
        for name in registry(kind).names():
            component = registry(kind).get(name)
            for field in fields_of(component).values():
                section = _section_of(field_types(component)[field.name])
                if section is not None and not rule_of(field).slot:
                    found.setdefault(section, []).append(f"{kind}: {name}.{field.name}")
    return found


def _inner(path: str, owner: type) -> Iterator[tuple[str, type]]:
    seen: dict[type, list[str]] = {}
    for name, annotation in field_types(owner).items():
        section = _section_of(annotation)
        if section is not None:
            item = "[]" if get_origin(annotation) is tuple else ""
            seen.setdefault(section, []).append(f"{path}{name}{item}")
    for section, paths in seen.items():
        yield ", ".join(paths), section
        yield from _inner(f"{paths[0]}.", section)


def _section_of(annotation: Any) -> type | None:
    options = get_args(annotation) or (annotation,)
    sections = (option for option in options if isinstance(option, type))
    return next((option for option in sections if dataclasses.is_dataclass(option)), None)


def _table(owner: type) -> list[str]:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    meanings = documentation(owner)
    for name, field in fields_of(owner).items():
        rule = rule_of(field)
        key = "type" if rule.inline else name
        cells = (
            f"`{key}`",
            _value(field_types(owner)[name], field, rule),
            _default(owner, field),
            " ".join(meanings.get(name, "").split()),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _value(annotation: Any, field: dataclasses.Field[Any], rule: Rule) -> str:
    if rule.slot:
        link = f"[{rule.slot}](#{_anchor(_title(rule.slot))})"
        if field.default == ():
            return f"list of {link}"
        return f"one of the {link}{', with its keys beside this one' if rule.inline else ''}"
    text = _type(annotation)
    limits = [
        f"{words} {limit:g}"
        for words, limit in (
            ("at least", rule.at_least),
            ("above", rule.above),
            ("at most", rule.at_most),
            ("below", rule.below),
        )
        if limit is not None
    ]
    if rule.not_empty:
        limits.append("not empty")
    if rule.path:
        limits.append("a path, relative to the recipe")
    return ", ".join([text, *limits])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(option) for option in arguments)
    if annotation is type(None):
        return "`null`"
    if origin is Literal:
        return " or ".join(f"`{_shown(option)}`" for option in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_type(arguments[1])}"
    if dataclasses.is_dataclass(annotation):
        return "section"
    return _NAMES[annotation]


def _default(owner: type, field: dataclasses.Field[Any]) -> str:
    if field.name in required(owner):
        return "required"
    if field.default_factory is dict:
        return "`{}`"
    if field.default is dataclasses.MISSING:
        return "its keys' defaults"
    if field.default is None:
        return "`null`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, tuple):
        return f"`[{', '.join(str(item) for item in field.default)}]`"
    return f"`{_shown(field.default)}`"


def _shown(value: object) -> str:
    """A value as YAML would be written with it; blanks in quotes, to be seen."""
    return str(value) if str(value).strip() else json.dumps(value)


def _title(kind: str) -> str:
    return kind.replace("_", " ").capitalize()


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    for kind in schema.KINDS:
        schema.written_path(kind).write_text(schema.schema_text(kind), encoding="utf-8")
