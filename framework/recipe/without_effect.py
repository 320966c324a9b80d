"""Settings that are written and would change nothing, because another one is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def unused_settings(
    part: Any, has_effect: Mapping[str, tuple[bool, str]], section: str = ""
) -> Iterator[Problem]:
    """A problem for each setting that isn't its default and has no effect.

    Args:
        part: a section, or a component.
        has_effect: field of it -> (whether it has an effect, what to write so that it has one).
        section: key of a section; a component's own is found.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(part)}
    for name, (effective, line) in has_effect.items():
        if not effective and vars(part)[name] != defaults[name]:
            yield Problem(
                key=f"{section}.{name}",
                what=f"has no effect without `{line}`",
                hint=f"leave it out, or write {line}",
            )


def unused_in_sections(recipe: Recipe) -> Iterator[Problem]:
    """Those of the recipe's own sections."""
    data, evaluation = recipe.data, recipe.evaluation
    several = evaluation.every_steps is not None or evaluation.every_epochs is not None
    # Without anything to evaluate on, that is what is said.
    several = several or not data.datasets_of("eval")
    yield from unused_settings(
        data, {"dry_run": (bool(data.cleaners), "cleaners: [exact_duplicates]")}, "data"
    )
    yield from unused_settings(
        evaluation, {"early_stopping": (several, "every_steps: 100")}, "evaluation"
    )
