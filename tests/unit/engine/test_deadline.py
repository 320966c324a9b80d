"""A run saves its state before its time is over, as early as its steps and saves demand."""

from __future__ import annotations

import time

import pytest

from framework.core.world import World
from framework.engine.deadline import LEAVING_SECONDS, SAFETY, Deadline
from framework.recipe.schema import Trainer


def deadline(seconds: float | None, num_parameters: int = 0, **world) -> Deadline:
    minutes = None if seconds is None else seconds / 60
    trainer = Trainer(time_limit_minutes=minutes)
    return Deadline(trainer, World(**world), time.monotonic(), num_parameters)


def test_without_a_limit_the_end_is_never_near():
    one = deadline(None)
    one.note_step(1e9)
    assert not one.is_near(evaluates=True)


@pytest.mark.parametrize(
    ("step", "save", "near"), [(20, 20, False), (60, 20, True), (20, 60, True)]
)
def test_it_is_near_when_one_more_step_and_a_save_may_not_fit(step, save, near):
    one = deadline(120)
    one.note_step(step)
    one.note_save(save)
    assert one.is_near(evaluates=False) == near
    assert one.margin_seconds(evaluates=False) == SAFETY * (step + save) + LEAVING_SECONDS


def test_an_evaluation_counts_where_one_is_due():
    one = deadline(120)
    one.note_evaluation(90)
    assert one.is_near(evaluates=True)
    assert not one.is_near(evaluates=False)


def test_before_the_first_save_a_slow_disk_is_assumed():
    assert not deadline(120, num_parameters=1_000_000).is_near(evaluates=False)
    assert deadline(120, num_parameters=1_000_000_000).is_near(evaluates=False)


def test_a_slow_first_step_is_forgotten():
    one = deadline(120)
    one.note_step(600)
    for _ in range(20):
        one.note_step(1)
    assert not one.is_near(evaluates=False)


def test_the_earlier_of_two_limits_counts():
    soon = int(time.time()) + 30
    assert "SLURM_JOB_END_TIME" in deadline(3600, end_time=soon).name
    assert "time_limit_minutes: 0.1" in deadline(6, end_time=soon).name


def test_a_clock_that_is_set_later_changes_nothing(monkeypatch):
    one = deadline(None, end_time=int(time.time()) + 3600)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert not one.is_near(evaluates=False)
