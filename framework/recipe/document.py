"""YAML text -> plain values, and for each of them the place where it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from framework.core.problems import Problem, nearest

KeyPath = tuple[str | int, ...]
"""Where a value stands in a recipe: ("data", "train", 0, "format")."""

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
MAX_DEPTH = 50
MAX_INTEGER_BITS = 1024

_CORE_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value")
)
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)([eE][-+]?\d+)?")
_BOOLEAN_WORDS = {"yes": True, "no": False, "on": True, "off": False}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where one value of a recipe was written."""

    kind: Literal["file", "override"] = "file"
    file: str
    """A path, or `command line`."""
    line: int
    """1-based; for an override its number on the command line."""
    column: int
    key_line: int
    key_column: int
    interpolation: str = ""
    """The `${...}` text that the value was computed from."""
    from_environment: bool = False
    """Whether a variable was read for it, here or where it refers to: it may be a secret."""


@dataclass(kw_only=True)
class Document:
    """Values under construction, with their origins and what was found wrong on the way."""

    values: Any = None
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def dotted(path: KeyPath) -> str:
    """("data", "train", 0, "format") -> `data.train[0].format`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def split_key(key: str) -> KeyPath:
    """`data.train[0].format` or `data.train.0.format` -> ("data", "train", 0, "format")."""
    parts = re.findall(r"[^.\[\]]+", key)
    return tuple(int(part) if part.isdigit() else part for part in parts)


def read_document(path: Path) -> Document:
    """One YAML file, whatever is wrong with it collected in `problems`."""
    document = Document()
    text = _read_text(path)
    if isinstance(text, Problem):
        document.problems.append(text)
    else:
        _Reader(document, str(path)).read(text)
    return document


def _read_text(path: Path) -> str | Problem:
    name = str(path)
    try:
        if not path.is_file() and path.exists():  # a device or a pipe may never end
            return Problem(file=name, what="is not a file")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Problem(file=name, what="no such file", hint=_similar_file(path))
    except (OSError, ValueError) as error:
        return Problem(file=name, what=f"can't be read: {getattr(error, 'strerror', error)}")
    if len(content) > MAX_BYTES:
        what = f"is more than {MAX_BYTES:,} bytes, which is the most that a recipe has"
        return Problem(file=name, what=what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Problem(
            file=name,
            line=content.count(b"\n", 0, error.start) + 1,
            what=f"byte {content[error.start]:#04x} is not UTF-8",
            hint="save the recipe as UTF-8",
        )


def parse_text(text: str, name: str) -> Document:
    """YAML text that is in no file, such as the value of an override."""
    document = Document()
    _Reader(document, name).read(text)
    return document


def _similar_file(path: Path) -> str:

    if not path.parent.is_dir():
        return f"the directory {str(path.parent)!r} does not exist either"
    names = [entry.name for entry in path.parent.glob("*.y*ml")]
    near = nearest(path.name, names)
    return f"did you mean {str(path.parent / near)!r}?" if near else ""


class _Reader:
    """Walks the YAML nodes of one text; needs state for the limits against alias bombs."""

    def __init__(self, document: Document, name: str) -> None:
        self.document = document
        self.name = name
        self.num_values = 0

    def read(self, text: str) -> None:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = f"not valid YAML: {error.problem or error.context}"
            self._problem(mark, what, hint="check indentation, quotes and colons around here")
            return
        except (yaml.YAMLError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            what = f"not valid YAML: {' '.join(reason.split())}"
            self.document.problems.append(Problem(file=self.name, what=what))
            return
        if root is None:
            return
        try:
            self.document.values = self._value(root, (), None)
        except _TooManyValuesError as error:
            self.document.problems.append(Problem(file=self.name, what=str(error)))

    def _value(self, node: yaml.Node, path: KeyPath, key: yaml.Node | None) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise _TooManyValuesError(f"holds more than {MAX_VALUES:,} values (aliases count)")
        if len(path) > MAX_DEPTH:
            raise _TooManyValuesError(f"is nested more than {MAX_DEPTH} levels deep")
        start, key_start = node.start_mark, (key or node).start_mark
        self.document.origins[path] = Origin(
            file=self.name,
            line=start.line + 1,
            column=start.column + 1,
            key_line=key_start.line + 1,
            key_column=key_start.column + 1,
        )
        if node.tag not in _CORE_TAGS:
            what = f"the YAML tag {node.tag!r} is not allowed"
            self._problem(start, what, hint="write a plain value", path=path)
            return None
        if isinstance(node, yaml.MappingNode):
            return {name: value for name, value in self._items(node, path)}  # noqa: C416
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, i), None) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                what = "a key must be plain text"
                hint = "use `extends:` to include another recipe"
                self._problem(key.start_mark, what, hint=hint, path=path)
                continue
            name = str(key.value)
            if name in seen:
                what = f"written twice; first on line {seen[name]}"
                hint = "keep one of the two"
                self._problem(key.start_mark, what, hint=hint, path=(*path, name))
                continue
            seen[name] = key.start_mark.line + 1
            yield name, self._value(value, (*path, name), key)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.rsplit(":", 1)[1]
        plain = node.style is None
        if kind == "null":
            return None
        if kind == "bool":
            word = text.lower()
            if word in _BOOLEAN_WORDS:
                value = _BOOLEAN_WORDS[word]
                self._trap(node, path, value, f"write {str(value).lower()}, or '{text}' for text")
                return value
            return word == "true"
        if kind == "int":
            return self._integer(node, path)
        if kind == "float":
            return self._float(node, path)
        if plain and _FLOAT.fullmatch(text) and any(mark in text for mark in "eE"):
            return float(text.replace("_", ""))  # YAML 1.2 reads 1e-3 as a number; PyYAML doesn't
        return text

    def _integer(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = node.value
        try:
            value = yaml.SafeLoader("").construct_yaml_int(node)
        except ValueError:
            return text
        if value.bit_length() > MAX_INTEGER_BITS:
            return text
        digits = text.lstrip("+-")
        if ":" in text:
            self._trap(node, path, value, f"write '{text}' for text, or {value}")
        elif len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            self._trap(
                node, path, value, f"write {digits.lstrip('0') or '0'}, or '{text}' for text"
            )
        return value

    def _float(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            value = yaml.SafeLoader("").construct_yaml_float(node)
        except ValueError:
            return node.value
        if ":" in node.value:
            self._trap(node, path, value, f"write '{node.value}' for text, or {value}")
        return value

    def _trap(self, node: yaml.ScalarNode, path: KeyPath, value: object, hint: str) -> None:
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        self.document.warnings.append(
            Problem(
                file=self.name,
                line=node.start_mark.line + 1,
                column=node.start_mark.column + 1,
                key=dotted(path),
                what=f"YAML 1.1 reads {node.value} as {shown}",
                hint=hint,
            )
        )

    def _problem(self, mark: Any, what: str, *, hint: str, path: KeyPath = ()) -> None:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        self.document.problems.append(
            Problem(
                file=self.name, line=line, column=column, key=dotted(path), what=what, hint=hint
            )
        )


class _TooManyValuesError(Exception):
    """The text expands to more than any recipe needs."""


def merge(
    under: Any,
    over: Any,
    path: KeyPath,
    origins: dict[KeyPath, Origin],
    added: Mapping[KeyPath, Origin],
) -> Any:
    """`over` laid on `under`: mappings are merged, everything else is replaced.

    A mapping whose `type` names another component replaces the old one whole: fields of one
    component mean nothing to another. `origins` is changed along with the values.
    """
    both = isinstance(under, dict) and isinstance(over, dict)
    if both and over.get("type", under.get("type")) == under.get("type"):
        merged = dict(under)
        for key, value in over.items():
            child = (*path, key)
            if key in under:
                merged[key] = merge(under[key], value, child, origins, added)
            else:
                merged[key] = value
                _adopt(child, origins, added)
        if path in added:
            origins[path] = added[path]
        return merged
    for old in [old for old in origins if old[: len(path)] == path]:
        del origins[old]
    _adopt(path, origins, added)
    return over


def _adopt(path: KeyPath, origins: dict[KeyPath, Origin], added: Mapping[KeyPath, Origin]) -> None:
    origins.update({new: origin for new, origin in added.items() if new[: len(path)] == path})
