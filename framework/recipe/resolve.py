"""A recipe's path and overrides -> Recipe, or every problem at once with file and line."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framework.core.problems import Problem, Refused, UserError, moved
from framework.core.protocols.components import Checked, Telling
from framework.core.protocols.models import Configured
from framework.core.registries import registry
from framework.core.settings import rule_of
from framework.recipe.build import BROKEN, Builder, fields_of, place
from framework.recipe.compose import compose
from framework.recipe.constraints import section_conflicts, section_notes
from framework.recipe.document import Document, KeyPath, Origin, dotted
from framework.recipe.interpolation import interpolate
from framework.recipe.schema import Recipe
from framework.recipe.written_secrets import written_secrets

RESOLVED = "resolved.yaml"
"""A run's whole recipe, in its folder."""

_WAY_WITHOUT: Mapping[str | int, str] = {
    part: f"a run whose {part} rows are lost goes on without them: add `data.{part}=[]`"
    for part in ("eval", "test")
}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A good recipe together with what was written for it."""

    recipe: Recipe
    values: Mapping[str, Any]
    """What the user wrote, includes and overrides applied; defaults are not in it."""
    origins: Mapping[KeyPath, Origin]
    """Where each of those values was written."""
    warnings: tuple[Problem, ...]


def resolve(
    path: Path | str,
    overrides: Sequence[str] = (),
    allowed_environment: Collection[str] = (),
) -> Recipe:
    """The recipe at `path`.

    Args:
        path: a YAML file.
        overrides: `a.b=c` sets a key, `+a.b=c` adds one or appends to a list.
        allowed_environment: variables that `${oc.env:NAME}` may read.

    Raises:
        UserError: everything that is wrong with the recipe, each with file, line and key.
    """
    return resolve_with_origins(path, overrides, allowed_environment).recipe


def resolve_with_origins(
    path: Path | str,
    overrides: Sequence[str] = (),
    allowed_environment: Collection[str] = (),
    *,
    config_only: bool = False,
) -> Resolved:
    """Like `resolve`, with the written values and their places.

    Args:
        config_only: models need no weights and no tokenizer.
    """
    document, recipe, problems = _built(path, overrides, allowed_environment)
    if recipe is not None:
        try:
            found = conflicts_in(recipe, config_only=config_only)
            problems += (place(problem, document.origins) for problem in found)
        except Refused as refused:
            placed = [place(problem, document.origins) for problem in refused.problems]
            # What is wrong comes first: it may be the very line that would have allowed it.
            if not problems:
                raise Refused(placed) from refused
            problems += placed
    keys = {problem.key for problem in problems}
    secrets = written_secrets(document.values, document.origins)
    problems += (one for one in secrets if one.key not in keys)
    if problems or recipe is None:
        raise UserError(_in_reading_order(problems), warnings=document.warnings)
    notes = [place(note, document.origins) for note in notes_of(recipe)]
    return Resolved(
        recipe=recipe,
        values=document.values,
        origins=document.origins,
        warnings=(*document.warnings, *notes),
    )


def resolve_run(
    run: Path, overrides: Sequence[str] = (), allowed_environment: Collection[str] = ()
) -> Resolved:
    """The recipe of a run, as far as it can be read: whether it may be started, today and here, is
    not asked, so that rules that were added later don't shut what was trained.

    Args:
        run: its folder.
        overrides: see `resolve`.
        allowed_environment: see `resolve`.

    Raises:
        UserError: what can't be read, each with file, line and key.
    """
    document, recipe, problems = _built(run / RESOLVED, overrides, allowed_environment)
    if problems or recipe is None:
        raise UserError(_in_reading_order(problems), warnings=document.warnings)
    return Resolved(
        recipe=recipe,
        values=document.values,
        origins=document.origins,
        warnings=tuple(document.warnings),
    )


def _built(
    path: Path | str, overrides: Sequence[str], allowed_environment: Collection[str]
) -> tuple[Document, Recipe | None, list[Problem]]:
    """(What is written, the recipe that it says if it says one, what can't be read of it)."""
    document = compose(Path(path), overrides)
    interpolate(document, _defaults(Recipe), allowed_environment)
    builder = Builder(document.origins)
    unreadable = not document.values and document.problems
    recipe = BROKEN if unreadable else builder.section(Recipe, document.values, ())
    problems = [*document.problems, *builder.problems]
    return document, recipe if isinstance(recipe, Recipe) else None, problems


@contextmanager
def placing(origins: Mapping[KeyPath, Origin]) -> Iterator[None]:
    """What is found while a good recipe is followed has the places of its keys too."""
    try:
        yield
    except UserError as error:
        error.problems = tuple(
            place(problem, origins) if problem.key else problem for problem in error.problems
        )
        error.args = ("\n".join(map(str, error.problems)),)
        raise


def conflicts_in(recipe: Recipe, *, config_only: bool = False) -> Iterator[Problem]:
    """What the recipe's sections and components find wrong with each other.

    Args:
        config_only: models need no weights and no tokenizer.
    """
    yield from section_conflicts(recipe)
    for path, part in _parts(recipe, ()):
        found: Iterable[Problem] = ()
        if config_only and isinstance(part, Configured):
            found = part.config_problems()
        elif isinstance(part, Checked):
            found = part.check(recipe)
        try:
            yield from (_keyed(problem, path, part) for problem in found)
        except Refused as refused:
            raise Refused(_keyed(problem, path, part) for problem in refused.problems) from refused


def notes_of(recipe: Recipe) -> Iterator[Problem]:
    """What the recipe's components decided by themselves, and what may not be meant."""
    yield from section_notes(recipe)
    for path, part in _parts(recipe, ()):
        if isinstance(part, Telling):
            yield from (_keyed(note, path, part) for note in part.notes(recipe))


def _keyed(problem: Problem, path: KeyPath, part: Any) -> Problem:
    """The problem with the whole key of a component's own field."""
    if problem.key.startswith("."):
        without = _WAY_WITHOUT.get(path[1]) if path[0] == "data" and path[-1] == "source" else None
        hint = "; ".join(filter(None, (problem.hint, without)))
        return replace(problem, key=dotted(path) + problem.key, hint=hint)
    # Model sources speak of the slot that all recipes have.
    is_source = registry("model_sources").name_of(type(part)) is not None
    return moved(problem, "model.source", dotted(path)) if is_source else problem


def _parts(part: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(part, tuple):
        for index, item in enumerate(part):
            yield from _parts(item, (*path, index))
    elif dataclasses.is_dataclass(part):
        yield path, part
        for name, field in fields_of(type(part)).items():
            inner = path if rule_of(field).inline else (*path, name)
            yield from _parts(getattr(part, name), inner)


def _in_reading_order(problems: Sequence[Problem]) -> list[Problem]:
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda problem: (problem.file, problem.line, problem.column))


def _defaults(owner: type) -> dict[str, Any]:
    """Values of the keys that may be left out, for interpolations that refer to them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(owner):
        if dataclasses.is_dataclass(field.default_factory):
            found[field.name] = _defaults(field.default_factory)
        elif isinstance(field.default, (bool, int, float, str)) and not rule_of(field).inline:
            found[field.name] = field.default
    return found
