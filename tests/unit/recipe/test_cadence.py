"""Cadence: the best checkpoint is chosen among all that are saved, or all that are evaluated."""

from __future__ import annotations

import dataclasses
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from framework.recipe.cadence import cadence_conflicts, compares_nothing, is_saved
from framework.recipe.schema import BestCheckpoint, Checkpoint, Evaluation
from framework.trainers.grpo import GRPO
from framework.trainers.sft import SFT


def recipe(**checkpoint: Any) -> Any:
    return SimpleNamespace(
        checkpoint=Checkpoint(**checkpoint),
        evaluation=Evaluation(),
        trainer=SimpleNamespace(method=SFT()),
    )


def of_best(*cadence: int | None, **changes: Any) -> list[str]:
    asked = recipe(keep_best=BestCheckpoint())
    for name, value in changes.items():
        setattr(asked, name, value)
    return [str(one) for one in cadence_conflicts(asked, *cadence)]  # pyright: ignore


def test_what_is_refused_is_what_leaves_steps_uncompared():
    """Against every step of short runs."""
    asked, seen = recipe(keep_best=BestCheckpoint()), set()
    for saved_every, evaluate_every, num_steps in product(range(1, 8), range(1, 8), range(1, 22)):
        saved = set(range(saved_every, num_steps, saved_every))
        evaluated = set(range(evaluate_every, num_steps, evaluate_every))
        both = saved & evaluated
        good = not (saved or evaluated) or (both and both in (saved, evaluated))
        found = list(cadence_conflicts(asked, saved_every, evaluate_every, num_steps))
        case = (saved_every, evaluate_every, num_steps)
        assert [one.key for one in found] == ([] if good else ["checkpoint.keep_best"]), case
        nothing = compares_nothing(asked, saved_every, evaluate_every, num_steps)
        assert nothing == (not (saved or evaluated)), case
        seen.add((bool(good), nothing))
    assert seen == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize(
    ("cadence", "hint"),
    [
        ((4, 3, 12), "write evaluation.every_steps: 4"),
        ((5, 4, None), "write evaluation.every_steps: 5"),
        ((2, 100, 12), "write evaluation.every_steps: 2"),
        ((12, 3, 12), "write checkpoint.every_steps: 3"),
    ],
)
def test_what_to_write_instead_is_good(cadence, hint):
    (problem,) = of_best(*cadence)
    assert problem.endswith(hint)
    saved_every, evaluate_every, num_steps = cadence
    steps = int(hint.rsplit(maxsplit=1)[-1])
    if "evaluation" in hint:
        evaluate_every = steps
    else:
        saved_every = steps
    assert not of_best(saved_every, evaluate_every, num_steps)
    assert of_best(*cadence, evaluation=Evaluation(every_epochs=1.0)) == [
        f"{problem} instead of every_epochs" if "evaluation" in hint else problem
    ]


@pytest.mark.parametrize("cadence", [(10, 100, None), (100, 10, None), (1, 1, 9), (9, 9, 9)])
def test_all_saved_or_all_evaluated_steps_are_compared(cadence):
    assert not of_best(*cadence)


def test_steps_on_a_batch_of_answers_that_no_checkpoint_keeps_count():
    method = dataclasses.replace(GRPO(rewards=()), num_iterations=3)
    trainer = SimpleNamespace(method=method)
    assert [step for step in range(1, 16) if is_saved(step, 5, 3)] == [6, 12, 15]
    (problem,) = of_best(5, 5, 16, trainer=trainer)
    assert problem.endswith("write evaluation.every_steps: 3")
    assert not of_best(5, 3, 16, trainer=trainer)
    assert not of_best(6, 6, 16, trainer=trainer)


def test_what_is_kept_for_good_is_saved():
    assert not list(cadence_conflicts(recipe(keep_every=8), 4, 0, 100))
    assert not list(cadence_conflicts(recipe(keep_every=50), 4, 0, 50))
    (problem,) = cadence_conflicts(recipe(keep_every=7), 4, 0, 100)
    assert (problem.key, problem.hint) == ("checkpoint.keep_every", "write keep_every: 8")
