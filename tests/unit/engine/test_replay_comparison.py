"""Which numbers of a step are the same, and what is said of those that weren't compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import write_rows

from framework.runs.lock_differences import Difference
from framework.runs.replay import Comparison, compare_runs

OTHER_TORCH = Difference(kind="package", text="package torch: was 1.0, is 2.0")
OTHER_RATE = Difference(kind="setting", text="setting trainer.learning_rate: was 1, is 2")


def step(number: int, *losses: float | None, **numbers: float) -> dict[str, Any]:
    """A row of `samples.jsonl` and, with `numbers`, what `metrics.jsonl` has of it."""
    ids = [f"train0:{row}" for row in range(len(losses))]
    return {"step": number, "ids": ids, "losses": losses, **numbers}


def compared(
    folder: Path, was: list[dict[str, Any]], now: list[dict[str, Any]], *known: Difference
) -> Comparison:
    for name, rows in (("run", was), ("replay", now)):
        (folder / name).mkdir()
        write_rows(folder / name / "samples.jsonl", rows)
        write_rows(folder / name / "metrics.jsonl", [row for row in rows if "loss" in row])
    return compare_runs(folder / "run", folder / "replay", known, tolerance=1e-3)


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        ((1.0, 1e-7), (1.0, 2e-7), True),  # as far from each other as the last digits of 1.0
        ((1.0, 1.0), (1.0, 1.0005), True),
        ((1.0, 1.0), (1.0, 1.01), False),
        ((1.0, None), (1.0, None), True),
        ((1.0, None), (1.0, 1.0), False),
        ((None, None), (None, 1.0), False),
    ],
)
def test_on_other_packages_a_samples_loss_may_differ_in_last_digits(tmp_path, was, now, same):
    found = compared(tmp_path, [step(1, *was)], [step(1, *now)], OTHER_TORCH)
    assert found.same == same
    if not same:
        assert found.first is not None and found.first.name == "loss of train0:1"
        assert (found.first.was, found.first.now) == (was[1], now[1])


def test_on_the_same_packages_it_may_not(tmp_path):
    found = compared(tmp_path, [step(1, 1.0, 1e-7)], [step(1, 1.0, 2e-7)])
    assert not found.same and found.num_steps == 0


def test_a_norm_that_was_no_number_twice_is_the_same(tmp_path):
    rows = [step(1, 1.0, loss=1.0, grad_norm=math.nan), step(2, 1.0, loss=1.0, grad_norm=math.inf)]
    assert compared(tmp_path, rows, rows).compared["gradient norms"] == 2


def test_without_losses_after_an_update_no_setting_made_no_difference(tmp_path):
    """As of a trainer whose samples have no losses of their own, logged at every tenth step."""
    rows = [{"step": number, "ids": ["train0:1"]} for number in (1, 2, 3)]
    assert list(compared(tmp_path, rows, rows, OTHER_RATE).lines()) == [
        "the same bit for bit in 3 steps: sample ids",
        "  in none of them, and so not compared: "
        "learning rates, losses, gradient norms, losses of samples",
        "final weights: not compared, one of the runs has none",
        f"may make a difference that was not compared: {OTHER_RATE}",
    ]


def test_with_a_loss_after_an_update_it_made_none(tmp_path):
    rows = [step(1, 1.0), step(2, 1.0)]
    lines = [*compared(tmp_path, rows, rows, OTHER_RATE).lines()]
    assert f"made no difference: {OTHER_RATE}" in lines
