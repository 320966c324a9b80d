"""A recipe file, the files it extends and the command line's overrides -> one document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from framework.core.problems import Problem
from framework.recipe.document import (
    Document,
    KeyPath,
    Origin,
    dotted,
    merge,
    parse_text,
    read_document,
    split_key,
)

COMMAND_LINE = "command line"


def compose(path: Path, overrides: Sequence[str]) -> Document:
    """The values that the user wrote, all files and overrides laid over one another."""
    document = _with_parents(path, ())
    if not isinstance(document.values, dict):
        if not document.problems:
            document.problems.append(
                Problem(
                    file=str(path),
                    line=1,
                    what="a recipe is a mapping of sections",
                    hint="start with `model:`, `data:` and `output:`",
                )
            )
        document.values = {}
    for number, override in enumerate(overrides, start=1):
        _apply_override(document, override, number)
    return document


def _with_parents(path: Path, chain: tuple[Path, ...]) -> Document:
    """The file at `path` laid over whatever it extends; `chain` holds the files that led here."""
    document = read_document(path)
    values = document.values
    if not isinstance(values, dict) or "extends" not in values:
        return document
    values = dict(values)
    written = values.pop("extends")
    origins = {place: at for place, at in document.origins.items() if place[:1] != ("extends",)}
    merged = Document(values={}, problems=document.problems, warnings=document.warnings)
    seen = (*chain, path.resolve())
    for parent in _parents(written, path, document):
        if parent.resolve() in seen:
            merged.problems.append(_cycle(document.origins[("extends",)], seen, parent))
            continue
        under = _with_parents(parent, seen)
        merged.problems += _located(under.problems, parent, document.origins[("extends",)])
        merged.warnings += under.warnings
        if under.values is not None and not isinstance(under.values, dict):
            what = f"{str(parent)!r} is no recipe: it holds no keys"
            at = document.origins[("extends",)]
            merged.problems.append(_at(at, what, "name the file of a recipe"))
            continue
        merged.values = merge(merged.values, under.values or {}, (), merged.origins, under.origins)
    merged.values = merge(merged.values, values, (), merged.origins, origins)
    return merged


def _parents(written: object, path: Path, document: Document) -> Iterable[Path]:
    names = written if isinstance(written, list) else [written]
    for name in names:
        if isinstance(name, str) and name and "\0" not in name:
            yield path.parent / name
        else:
            what = f"{name!r} is not a file name"
            hint = "write `extends: base.yaml` or a list of files"
            document.problems.append(_at(document.origins[("extends",)], what, hint))


def _at(extends: Origin, what: str, hint: str) -> Problem:
    """A fault of the line that names other files."""
    return Problem(
        file=extends.file,
        line=extends.line,
        column=extends.column,
        key="extends",
        what=what,
        hint=hint,
    )


def _located(problems: list[Problem], parent: Path, at: Origin) -> list[Problem]:
    """A file that can't be read is a fault of the line that names it."""
    return [
        replace(
            problem,
            file=at.file,
            line=at.line,
            column=at.column,
            key="extends",
            what=f"{str(parent)!r}: {problem.what}",
        )
        if problem.file == str(parent) and not problem.line
        else problem
        for problem in problems
    ]


def _cycle(at: Origin, seen: tuple[Path, ...], parent: Path) -> Problem:
    names = [file.name for file in (*seen, parent)]
    what = f"the files extend each other in a circle: {' -> '.join(names)}"
    return _at(at, what, "remove one of these `extends`")


def _apply_override(document: Document, override: str, number: int) -> None:
    """`a.b=c` sets a key, `+a.b=c` adds one or appends to a list."""
    key, equals, text = override.partition("=")
    adding = key.startswith("+")
    path = split_key(key.lstrip("+"))
    place = Problem(file=COMMAND_LINE, line=number, column=1, key=key.lstrip("+"), what="")
    if not equals or not path:
        what = f"{override!r} is not an override"
        hint = "write key=value, such as trainer.learning_rate=1e-4"
        document.problems.append(replace(place, key="", what=what, hint=hint))
        return
    parsed = parse_text(text, COMMAND_LINE)
    document.problems += [
        replace(problem, line=number, key=dotted(path), what=f"{text!r}: {problem.what}")
        for problem in parsed.problems
    ]
    document.warnings += [replace(w, line=number, key=dotted(path)) for w in parsed.warnings]
    try:
        target = _insert(document.values, path, parsed.values, adding)
    except _NoSuchPlaceError as error:
        document.problems.append(replace(place, what=str(error), hint=error.hint))
        return
    at = Origin(
        kind="override",
        file=COMMAND_LINE,
        line=number,
        column=len(key) + 2,
        key_line=number,
        key_column=1,
    )
    for old in [old for old in document.origins if old[: len(target)] == target]:
        del document.origins[old]
    for inner in parsed.origins or {(): at}:
        document.origins[(*target, *inner)] = at
    for depth in range(1, len(target)):
        document.origins.setdefault(target[:depth], at)


class _NoSuchPlaceError(Exception):
    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def _insert(values: Any, path: KeyPath, value: Any, adding: bool) -> KeyPath:
    """Puts `value` at `path`, in place; returns the path where it now stands."""
    container: Any = values
    for depth, written in enumerate(path[:-1]):
        part: Any = _key_in(container, written, path[:depth])
        if isinstance(container, dict):
            container.setdefault(part, {})
        if container[part] is None:
            container[part] = {}
        elif isinstance(container[part], str):
            # A component's short form (`adapter: lora`) has room for fields once it is a mapping.
            container[part] = {"type": container[part]}
        container = container[part]
    last: Any = _key_in(container, path[-1], path[:-1])
    target = (*path[:-1], last)
    if not adding:
        container[last] = value
        return target
    if isinstance(container, list):
        raise _NoSuchPlaceError("is an item of a list", "write it without `+` to replace it")
    if isinstance(container.get(last), list):
        container[last].append(value)
        return (*target, len(container[last]) - 1)
    if last in container:
        raise _NoSuchPlaceError("the key is there already", "write it without `+`")
    container[last] = value
    return target


def _key_in(container: Any, part: str | int, path: KeyPath) -> str | int:
    """`part` as `container` is indexed with it."""
    if isinstance(container, dict):
        return str(part)
    if not isinstance(container, list):
        raise _NoSuchPlaceError(f"{dotted(path)!r} is a value, not a section")
    if not isinstance(part, int) or part >= len(container):
        have = f"items 0 to {len(container) - 1}" if container else "no items"
        raise _NoSuchPlaceError(
            f"{dotted(path)!r} is a list with {have}", f"write +{dotted(path)}=... to append"
        )
    return part
