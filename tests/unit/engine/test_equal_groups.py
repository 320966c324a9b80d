"""Steps whose rewards taught nothing are told of, and not at each of them."""

from __future__ import annotations

from framework.engine.equal_groups import MANY_IN_A_ROW, EqualGroups


def said(ratios):
    """(step -> what is said of it, what is said at the end); None: the same answers once more."""
    watch = EqualGroups()
    rows = [{} if ratio is None else {"equal_groups_ratio": ratio} for ratio in ratios]
    lines = {step: watch.after_step(step, row) for step, row in enumerate(rows, start=1)}
    return {step: line for step, line in lines.items() if line}, watch.summary()


def test_groups_some_of_which_differ_are_not_spoken_of():
    assert said([0.0, 0.99, 0.5]) == ({}, "")
    assert said([None, None]) == ({}, "")


def test_the_first_such_step_and_many_in_a_row_are_told_of_once_each():
    lines, summary = said([0.5, 1.0, 0.5, *[1.0] * (2 * MANY_IN_A_ROW)])
    assert list(lines) == [2, 3 + MANY_IN_A_ROW]
    assert "step 2: all answers to each prompt got equal rewards" in lines[2]
    assert f"nothing in the last {MANY_IN_A_ROW} steps" in lines[3 + MANY_IN_A_ROW]
    assert all("trainer.sampling.temperature" in line for line in lines.values())
    assert "nothing in 11 of 13 steps" in summary


def test_more_steps_on_the_same_answers_count_as_the_first():
    assert "nothing in 2 of 4 steps" in said([1.0, None, 0.5, None])[1]
