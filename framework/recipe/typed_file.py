"""A YAML file and a dataclass -> instances of it, or every reason why not, as for recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from framework.core.problems import Problem, UserError
from framework.recipe.build import Builder, place
from framework.recipe.document import Document, read_document

Section = TypeVar("Section")


def read_typed(
    path: Path,
    owner: type[Section],
    conflicts: Callable[[Section], Iterable[Problem]],
    example: str,
) -> Section:
    """What a file describes.

    Args:
        conflicts: what is wrong with an instance whose every field is good by itself.
        example: a line that the file could have.

    Raises:
        UserError: everything that is wrong, each with file, line and key.
    """
    document, values = _mapping(path, example)
    builder = Builder(document.origins)
    section = builder.section(owner, values, ())
    problems = [*document.problems, *builder.problems]
    if isinstance(section, owner):
        problems += (place(problem, document.origins) for problem in conflicts(section))
    if problems or not isinstance(section, owner):
        raise _refused(problems, document)
    return section


def read_named(
    path: Path,
    owner: type[Section],
    conflicts: Callable[[Section], Iterable[Problem]],
    example: str,
) -> dict[str, Section]:
    """What a file describes under each of its names.

    Args:
        conflicts: see `read_typed`; keys are the section's own.
        example: a line that the file could have.

    Raises:
        UserError: everything that is wrong, each with file, line and key.
    """
    document, values = _mapping(path, example)
    builder = Builder(document.origins)
    built = {name: builder.section(owner, value, (name,)) for name, value in values.items()}
    problems = [*document.problems, *builder.problems]
    for name, section in built.items():
        if isinstance(section, owner):
            keyed = (replace(one, key=f"{name}.{one.key}") for one in conflicts(section))
            problems += (place(one, document.origins) for one in keyed)
    if problems:
        raise _refused(problems, document)
    return built


def _mapping(path: Path, example: str) -> tuple[Document, Mapping[str, Any]]:
    document = read_document(path)
    if not isinstance(document.values, dict):
        what = f"is no mapping, such as `{example}`"
        raise UserError(document.problems or [Problem(file=str(path), line=1, what=what)])
    return document, document.values


def _refused(problems: Iterable[Problem], document: Document) -> UserError:
    in_order = sorted(dict.fromkeys(problems), key=lambda one: (one.line, one.column))
    return UserError(in_order, warnings=document.warnings)
