"""A YAML file and a dataclass -> an instance of it, or every reason why not, as for recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from framework.core.problems import Problem, UserError
from framework.recipe.build import Builder, place
from framework.recipe.document import read_document

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
    document = read_document(path)
    if not isinstance(document.values, dict):
        what = f"is no mapping, such as `{example}`"
        raise UserError(document.problems or [Problem(file=str(path), line=1, what=what)])
    builder = Builder(document.origins)
    section = builder.section(owner, document.values, ())
    problems = [*document.problems, *builder.problems]
    if isinstance(section, owner):
        problems += (place(problem, document.origins) for problem in conflicts(section))
    if problems or not isinstance(section, owner):
        in_order = sorted(dict.fromkeys(problems), key=lambda one: (one.line, one.column))
        raise UserError(in_order, warnings=document.warnings)
    return section
