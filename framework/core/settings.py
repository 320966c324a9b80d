"""Dataclass field -> recipe setting: how a field says its range, its slot and its meaning.

A recipe section or a component is a frozen dataclass. Each field is one YAML key, and the string
literal that follows the field is that key's documentation.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What a setting demands beyond its type."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    not_empty: bool = False
    """The text or list must hold something."""
    path: bool = False
    """A file or folder to read, or several, relative to the recipe that writes them; made
    absolute."""
    path_suffix: str = ""
    """Text with this ending is a file to read; any other text is no path."""
    slot: str = ""
    """Registry kind whose component fills this field."""
    inline: bool = False
    """The component's own fields stand beside the section's, not in a mapping of their own."""
    locator: bool = False
    """The slot also takes a plain string that one of the components recognises as its own."""

    def violation(self, value: Any) -> str:
        """What `value` breaks, empty when nothing."""
        if self.not_empty and value is not None and len(value) == 0:
            return "must not be empty"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return ""
        # Written as `not (...)` so that NaN, which compares false with everything, is refused.
        if self.at_least is not None and not value >= self.at_least:
            return f"must be at least {self.at_least:g}, is {value!r}"
        if self.above is not None and not value > self.above:
            return f"must be above {self.above:g}, is {value!r}"
        if self.at_most is not None and not value <= self.at_most:
            return f"must be at most {self.at_most:g}, is {value!r}"
        if self.below is not None and not value < self.below:
            return f"must be below {self.below:g}, is {value!r}"
        return ""


def setting(default: Any = dataclasses.MISSING, **rule: Any) -> Any:
    """A field with a `Rule`; without a default the key is required."""
    return dataclasses.field(default=default, metadata={"rule": Rule(**rule)})


def slot(
    kind: str,
    default: Any = dataclasses.MISSING,
    *,
    inline: bool = False,
    locator: bool = False,
) -> Any:
    """A field filled by a component of registry `kind`.

    `default` is what a recipe would write: a component's name, or None where the slot may stay
    empty; the recipe layer builds the component from it.
    """
    rule = Rule(slot=kind, inline=inline, locator=locator)
    return dataclasses.field(default=default, metadata={"rule": rule})


def slots(kind: str) -> Any:
    """A list, empty by default, whose items are components of registry `kind`."""
    return dataclasses.field(default=(), metadata={"rule": Rule(slot=kind)})


def rule_of(field: dataclasses.Field[Any]) -> Rule:
    """The field's rule; an empty one when it was declared plainly."""
    return field.metadata.get("rule", Rule())


@functools.cache
def documentation(owner: type) -> Mapping[str, str]:
    """Field name -> the string literal that follows it in the class body."""
    body = _class_body(owner)
    found: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[statement.target.id] = inspect.cleandoc(following.value.value)
    return found


def _class_body(owner: type) -> ast.ClassDef:
    node: ast.AST = _parsed(owner.__module__)
    for name in owner.__qualname__.replace(".<locals>", "").split("."):
        node = next(one for one in _definitions(node) if one.name == name)
    assert isinstance(node, ast.ClassDef)
    return node


@functools.cache
def _parsed(module: str) -> ast.Module:
    """Once for all classes that stand in it."""
    return ast.parse(inspect.getsource(sys.modules[module]))


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Those right inside of it, the last of a name first."""
    for child in reversed(list(ast.iter_child_nodes(node))):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.stmt):
            yield from _definitions(child)


def summary(owner: type) -> str:
    """First line of a class's docstring."""
    return (inspect.getdoc(owner) or "").split("\n", 1)[0]


def required(owner: type) -> Sequence[str]:
    """Names of the fields a recipe must write."""
    return [
        field.name
        for field in dataclasses.fields(owner)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
