"""Plain values + a dataclass -> an instance of it, or every reason why not."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from framework.core.problems import Problem, UserError, did_you_mean, nearest
from framework.core.protocols.components import Located
from framework.core.registries import registry
from framework.core.settings import Rule, required, rule_of
from framework.recipe.document import KeyPath, Origin, dotted, split_key
from framework.recipe.interpolation import UNRESOLVED
from framework.recipe.other_names import hint_for


class _Broken:
    """Stands for a value that has been reported, so that building goes on to the next."""


BROKEN = _Broken()

_NAME_BYTES = 255
"""Of a file's or a folder's name, on every usual file system."""
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@functools.cache
def field_types(owner: type) -> Mapping[str, Any]:
    """Field name -> its resolved annotation."""
    return typing.get_type_hints(owner)


@functools.cache
def fields_of(owner: type) -> Mapping[str, dataclasses.Field[Any]]:
    """Field name -> field, of the settings that a recipe may write."""
    return {field.name: field for field in dataclasses.fields(owner) if field.init}


class Builder:
    """Builds typed objects from a document's values and collects problems with their places."""

    def __init__(self, origins: Mapping[KeyPath, Origin]) -> None:
        self.origins = origins
        self.problems: list[Problem] = []

    def problem(self, path: KeyPath, what: str, hint: str = "", *, at_key: bool = False) -> _Broken:
        """Reports a fault of the value at `path`, placed where it or its nearest parent stands."""
        self.problems.append(
            place(Problem(key=dotted(path), what=what, hint=hint), self.origins, at_key=at_key)
        )
        return BROKEN

    def section(self, owner: type, values: Any, path: KeyPath) -> Any:
        """An instance of dataclass `owner` from a mapping of its fields."""
        if not isinstance(values, dict):
            return self.problem(
                path,
                f"must be a section, is {describe(values)}",
                _section_hint(owner, values, path),
            )
        fields = dict(fields_of(owner))
        inline = next((field for field in fields.values() if rule_of(field).inline), None)
        if inline is None:
            return self._construct(owner, fields, values, path)
        return self._with_inline(owner, fields, inline, values, path)

    def _with_inline(
        self,
        owner: type,
        fields: dict[str, dataclasses.Field[Any]],
        inline: dataclasses.Field[Any],
        values: dict[str, Any],
        path: KeyPath,
    ) -> Any:
        """A section beside whose keys stand the fields of the component named by `type`."""
        del fields[inline.name]
        name = values.get("type", inline.default)
        component = self._component_class(rule_of(inline).slot, name, (*path, "type"))
        own = {} if component is None else fields_of(component)
        both = {**fields, **own, "type": inline}
        for key in values:
            if key not in both:
                self._unknown_key(key, both, path)
        mine = {key: value for key, value in values.items() if key in fields}
        theirs = {key: value for key, value in values.items() if key in own}
        built = BROKEN if component is None else self._construct(component, own, theirs, path)
        return self._construct(owner, fields, mine, path, {inline.name: built})

    def _construct(
        self,
        owner: type,
        fields: Mapping[str, dataclasses.Field[Any]],
        values: Mapping[str, Any],
        path: KeyPath,
        given: Mapping[str, Any] | None = None,
    ) -> Any:
        arguments = dict(given or {})
        for key, value in values.items():
            if key not in fields:
                self._unknown_key(key, fields, path)
            else:
                arguments[key] = self._field(owner, fields[key], value, (*path, key))
        for name, field in fields.items():
            if name in values:
                continue
            rule = rule_of(field)
            if name in required(owner):
                hint = f"add `{name}:`"
                self.problem((*path, name), "is required and missing", hint, at_key=True)
                arguments[name] = BROKEN
            elif rule.slot and isinstance(field.default, str):
                arguments[name] = self.component(rule, field.default, (*path, name))
            elif dataclasses.is_dataclass(field.default_factory):
                arguments[name] = self.section(field.default_factory, {}, (*path, name))
        if any(value is BROKEN for value in arguments.values()):
            return BROKEN
        return owner(**arguments)

    def _unknown_key(self, key: str, allowed: Iterable[str], path: KeyPath) -> None:
        names = list(allowed)
        hint = did_you_mean(key, names)
        if not nearest(key, names):
            hint = hint_for(key) or hint
        self.problem((*path, key), "is not a key here", hint, at_key=True)

    def _field(self, owner: type, field: dataclasses.Field[Any], value: Any, path: KeyPath) -> Any:
        rule = rule_of(field)
        if value is UNRESOLVED:
            return BROKEN
        if rule.slot:
            return self._slot(rule, field, value, path)
        annotation = field_types(owner)[field.name]
        built = self.value(annotation, value, path)
        if built is BROKEN:
            return BROKEN
        violation = rule.violation(built)
        if violation:
            return self.problem(path, violation)
        is_path = rule.path or (rule.path_suffix and str(built).endswith(rule.path_suffix))
        if is_path and isinstance(built, str):
            return self._absolute(built, path)
        if rule.path and isinstance(built, tuple):
            paths = [self._absolute(one, (*path, at)) for at, one in enumerate(built)]
            return BROKEN if any(one is BROKEN for one in paths) else tuple(paths)
        return built

    def _absolute(self, text: str, path: KeyPath) -> Any:
        """A path that is read: relative to the file that writes it, or to the current directory."""
        if any(len(part.encode("utf-8", "replace")) > _NAME_BYTES for part in Path(text).parts):
            return self.problem(path, f"a name in this path has more than {_NAME_BYTES} bytes")
        return str((self._base(path) / Path(text).expanduser()).absolute())

    def _base(self, path: KeyPath) -> Path:
        """The folder that a path written there is relative to."""
        origin = nearest_origin(path, self.origins)
        return Path(origin.file).parent if origin and origin.kind == "file" else Path()

    def _slot(self, rule: Rule, field: dataclasses.Field[Any], value: Any, path: KeyPath) -> Any:
        if field.default == ():
            if not isinstance(value, list):
                return self.problem(
                    path, f"must be a list, is {describe(value)}", "start each item with `- `"
                )
            items = [self.component(rule, item, (*path, i)) for i, item in enumerate(value)]
            return BROKEN if any(item is BROKEN for item in items) else tuple(items)
        if value is None and field.default is None:
            return None
        return self.component(rule, value, path)

    def component(self, rule: Rule, value: Any, path: KeyPath) -> Any:
        """A component from its name, its locator, or a mapping with `type`."""
        fields: Any = {}
        name, place_of_name = value, path
        if isinstance(value, dict):
            fields = {key: item for key, item in value.items() if key != "type"}
            if "type" not in value:
                meant = nearest("type", [key for key in value if isinstance(key, str)])
                if meant is not None:
                    self._unknown_key(meant, ["type"], path)
                    return BROKEN
                names = ", ".join(registry(rule.slot).names())
                return self.problem(
                    path, "has no `type`", f"write `type:` and one of: {names}", at_key=True
                )
            name, place_of_name = value["type"], (*path, "type")
        if isinstance(name, str) and rule.locator and name not in registry(rule.slot).names():
            located = self._locate(rule.slot, name)
            if located is None and self._is_here(name, place_of_name, folder=True):
                what = f"{name!r} is a folder here, but is not written as a path"
                return self.problem(place_of_name, what, f"write ./{name}")
            if located is not None:
                if not _as_path(rule.slot, *located) and self._is_here(name, place_of_name):
                    return self._twofold(name, *located, place_of_name)
                # An override such as `model.source.revision=...` adds fields to a locator.
                name, fields = located[0], {**located[1], **fields}
        if name is UNRESOLVED:
            return BROKEN
        component = self._component_class(rule.slot, name, place_of_name)
        if component is None:
            return BROKEN
        return self._construct(component, fields_of(component), fields, path)

    def _locate(self, kind: str, locator: str) -> tuple[str, Mapping[str, Any]] | None:
        components = [(name, registry(kind).get(name)) for name in registry(kind).names()]
        found = [
            (name, fields)
            for name, component in components
            if issubclass(component, Located)
            and (fields := component.from_locator(locator)) is not None
        ]
        return found[0] if len(found) == 1 else None

    def _is_here(self, locator: str, path: KeyPath, *, folder: bool = False) -> bool:
        """Whether there is a file or a folder, if the locator is read as its path."""
        try:
            file = self._base(path) / locator
            return file.is_dir() if folder else file.exists()
        except (OSError, ValueError):  # no name that a file can have
            return False

    def _twofold(
        self, locator: str, name: str, fields: Mapping[str, Any], path: KeyPath
    ) -> _Broken:
        """Reports a locator that two things are called by."""
        mapping = ", ".join(f"{key}: {value}" for key, value in {"type": name, **fields}.items())
        what = f"{locator!r} is a file or folder here, and could be meant for `{name}`"
        return self.problem(path, what, f"write ./{locator}, or {{{mapping}}}")

    def _component_class(self, kind: str, name: Any, path: KeyPath) -> Any:
        if not isinstance(name, str):
            if name is not UNRESOLVED:
                names = ", ".join(registry(kind).names())
                what = f"must name a component, is {describe(name)}"
                self.problem(path, what, f"one of: {names}")
            return None
        try:
            return registry(kind).get(name)
        except UserError as error:
            for problem in error.problems:
                self.problem(path, problem.what, problem.hint)
            return None

    def value(self, annotation: Any, value: Any, path: KeyPath) -> Any:
        """`value` as `annotation` says, or BROKEN after reporting why not."""
        if value is UNRESOLVED:
            return BROKEN
        origin = get_origin(annotation)
        if origin in (types.UnionType, typing.Union):
            return self._union(get_args(annotation), value, path)
        if origin is Literal:
            return self._literal(get_args(annotation), value, path)
        if origin is tuple:
            return self._tuple(get_args(annotation), value, path)
        if origin is dict:
            return self._dict(get_args(annotation)[1], value, path)
        if dataclasses.is_dataclass(annotation):
            return self.section(typing.cast(type, annotation), value, path)
        if annotation is Any:
            return value
        return self._scalar(annotation, value, path)

    def _scalar(self, annotation: type, value: Any, path: KeyPath) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if annotation is float and whole:
            return float(value)
        fits = whole if annotation is int else isinstance(value, annotation)
        if fits and not (isinstance(value, float) and not math.isfinite(value)):
            return value
        return self.problem(
            path,
            f"must be {_NAMES[annotation]}, is {describe(value)}",
            _conversion_hint(annotation, value),
        )

    def _literal(self, allowed: tuple[Any, ...], value: Any, path: KeyPath) -> Any:
        if any(value == option and type(value) is type(option) for option in allowed):
            return value
        hint = did_you_mean(str(value), [str(option) for option in allowed])
        return self.problem(path, f"{value!r} is not one of its values", hint)

    def _union(self, options: tuple[Any, ...], value: Any, path: KeyPath) -> Any:
        if value is None:
            if type(None) in options:
                return None
            return self.problem(path, "must not be empty")
        options = tuple(option for option in options if option is not type(None))
        attempts: list[list[Problem]] = []
        for option in options:
            trial = Builder(self.origins)
            built = trial.value(option, value, path)
            if built is not BROKEN and not trial.problems:
                return built
            attempts.append(trial.problems)
        if not all(attempts):
            return BROKEN  # told where the value is written, elsewhere
        # The attempt that came furthest is the one that the user meant.
        deepest = max(attempts, key=lambda found: (len(found[0].key), len(options) == 1))
        if len(options) > 1 and all(problem.key == dotted(path) for problem in deepest):
            names = " or ".join(describe_type(option) for option in options)
            return self.problem(path, f"must be {names}, is {describe(value)}")
        self.problems += deepest
        return BROKEN

    def _tuple(self, arguments: tuple[Any, ...], value: Any, path: KeyPath) -> Any:
        if not isinstance(value, list):
            item = _short(value)
            if dataclasses.is_dataclass(arguments[0]) and isinstance(value, str):
                item = _as_section(typing.cast(type, arguments[0]), value) or item
            return self.problem(path, f"must be a list, is {describe(value)}", f"write [{item}]")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            expected = [arguments[0]] * len(value)
        else:
            expected = list(arguments)
        if len(expected) != len(value):
            return self.problem(path, f"must have {len(expected)} items, has {len(value)}")
        items = [
            self.value(item_type, item, (*path, index))
            for index, (item_type, item) in enumerate(zip(expected, value, strict=True))
        ]
        return BROKEN if any(item is BROKEN for item in items) else tuple(items)

    def _dict(self, item_type: Any, value: Any, path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self.problem(
                path, f"must be a mapping, is {describe(value)}", "write `name: value` lines"
            )
        items = {key: self.value(item_type, item, (*path, key)) for key, item in value.items()}
        return BROKEN if any(item is BROKEN for item in items.values()) else items


def _as_path(kind: str, name: str, fields: Mapping[str, Any]) -> bool:
    """Whether a component takes one of the fields as a path to read."""
    written = fields_of(registry(kind).get(name))
    return any(rule_of(written[key]).path for key in fields)


def _section_hint(owner: type, value: Any, path: KeyPath) -> str:
    """What to write in the place of a value that is no section."""
    if isinstance(value, str) and (section := _as_section(owner, value)):
        return f"write `{path[-1]}: {section}`" if isinstance(path[-1], str) else f"write {section}"
    inline = [field.name for field in fields_of(owner).values() if rule_of(field).inline]
    keys = ["type" if name in inline else name for name in fields_of(owner)]
    hint = f"its keys are: {', '.join(keys)}"
    if value is True and not required(owner):
        return f"write `{path[-1]}: {{}}` for its defaults; {hint}"
    return hint


def _as_section(owner: type, value: str) -> str | None:
    """The section that a text alone was meant to be, None where that can't be told."""
    for field in fields_of(owner).values():
        if rule_of(field).inline and value in registry(rule_of(field).slot).names():
            return f"{{type: {value}}}"
    needed = list(required(owner))
    return f"{{{needed[0]}: {_short(value)}}}" if len(needed) == 1 else None


def describe(value: Any) -> str:
    """A value as a message quotes it: short, and by its YAML type."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()}"
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(repr, list(value)[:3])) or 'nothing in it'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the text {_short(value)!r}" if isinstance(value, str) else _short(value)


def describe_type(annotation: Any) -> str:
    """An annotation in words."""
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(map(repr, get_args(annotation)))
    if origin is tuple:
        return f"a list ({describe_type(get_args(annotation)[0])} each)"
    if origin is dict:
        return "a mapping"
    return _NAMES.get(annotation, "a section")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _conversion_hint(annotation: type, value: Any) -> str:
    if annotation is str and isinstance(value, (int, float, bool)):
        return f"put it in quotes: '{value}'"
    if annotation is int and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if annotation in (int, float) and isinstance(value, str):
        try:
            return f"write {annotation(value)} without quotes"
        except ValueError:
            return ""
    if annotation is bool and isinstance(value, str) and value.lower() in {"true", "false"}:
        return f"write {value.lower()} without quotes"
    return ""


def nearest_origin(path: KeyPath, origins: Mapping[KeyPath, Origin]) -> Origin | None:
    """Where the value at `path`, or the closest written thing around it, stands."""
    for length in range(len(path), -1, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return None


def place(problem: Problem, origins: Mapping[KeyPath, Origin], *, at_key: bool = False) -> Problem:
    """The problem with the file and line of its `key`; untouched when it has a place already."""

    if problem.file:
        return problem
    path = split_key(problem.key)
    origin = nearest_origin(path, origins)
    if origin is None:
        return problem
    exact = path in origins
    on_key = at_key or not exact
    return dataclasses.replace(
        problem,
        file=origin.file,
        line=origin.key_line if on_key else origin.line,
        column=origin.key_column if on_key else origin.column,
    )
