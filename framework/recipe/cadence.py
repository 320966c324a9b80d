"""Recipe and the steps after which it saves and evaluates -> what it would never compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.protocols.training import Online

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def is_saved(step: int, every: int, num_iterations: int = 1) -> bool:
    """Whether a checkpoint of each `every` steps is due after `step`.

    Args:
        num_iterations: steps that are taken on a batch of answers, which no checkpoint keeps.
    """
    return step % num_iterations == 0 and step % every < num_iterations


def cadence_conflicts(
    recipe: Recipe, checkpoint_every: int, evaluate_every: int, num_steps: int | None
) -> Iterator[Problem]:
    """Checkpoints that are to be kept and are never saved, or saved and never evaluated.

    Args:
        evaluate_every: 0: only after the last step, after which every run saves and evaluates.
        num_steps: of the run; None while nobody knows.
    """
    kept = recipe.checkpoint.keep_every
    if kept is not None:
        yield from _kept(recipe, checkpoint_every, kept, num_steps)
    if recipe.checkpoint.keep_best is not None and evaluate_every:
        yield from _compared(recipe, checkpoint_every, evaluate_every, num_steps)


def compares_nothing(
    recipe: Recipe, checkpoint_every: int, evaluate_every: int, num_steps: int
) -> bool:
    """Whether the best checkpoint is looked for in a run that ends with its first."""
    ends_first = num_steps <= min(checkpoint_every, evaluate_every or num_steps)
    return recipe.checkpoint.keep_best is not None and ends_first


def _kept(recipe: Recipe, every: int, kept: int, num_steps: int | None) -> Iterator[Problem]:
    num_iterations = _num_iterations(recipe)
    regular = math.lcm(every, num_iterations)
    end = math.lcm(kept, regular) + 1 if num_steps is None else num_steps
    if all(is_saved(step, every, num_iterations) for step in range(kept, end, kept)):
        return
    yield Problem(
        key="checkpoint.keep_every",
        what=f"a checkpoint each {every} steps is not saved after each {kept}",
        hint=f"write keep_every: {math.ceil(kept / regular) * regular}",
    )


def _compared(
    recipe: Recipe, saved_every: int, evaluate_every: int, num_steps: int | None
) -> Iterator[Problem]:
    """The best one of all that are saved is kept, or that of all evaluations: not of those few
    steps that happen to have both."""
    num_iterations = _num_iterations(recipe)
    end = num_steps or math.lcm(saved_every, evaluate_every, num_iterations) + 1
    if end <= min(saved_every, evaluate_every):
        return
    evaluated = range(evaluate_every, end, evaluate_every)
    saved = (
        step
        for step in range(num_iterations, end, num_iterations)
        if is_saved(step, saved_every, num_iterations)
    )
    has_both = saved_every < end and evaluate_every < end
    if has_both and all(is_saved(step, saved_every, num_iterations) for step in evaluated):
        return
    if has_both and all(step % evaluate_every == 0 for step in saved):
        return
    section, steps = "evaluation", saved_every
    if saved_every % num_iterations:
        steps = num_iterations
    elif saved_every >= end:
        section, steps = "checkpoint", evaluate_every
    instead = vars(vars(recipe)[section])["every_epochs"] is not None
    yield Problem(
        key="checkpoint.keep_best",
        what=f"a checkpoint each {saved_every} steps is not evaluated each {evaluate_every}"
        + (f" in a run of {num_steps}" if num_steps else ""),
        hint=f"write {section}.every_steps: {steps}" + " instead of every_epochs" * instead,
    )


def _num_iterations(recipe: Recipe) -> int:
    method = recipe.trainer.method
    return method.num_iterations if isinstance(method, Online) else 1
