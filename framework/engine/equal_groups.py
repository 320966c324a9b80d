"""Rewards of a step -> a word where they taught nothing, all answers to each prompt being equal."""

from __future__ import annotations

from collections.abc import Mapping

MANY_IN_A_ROW = 5
"""Steps in a row that taught nothing, after which it is said again."""

_WHAT_TO_DO = (
    "write another reward, which tells such answers apart (see answers.jsonl), a higher "
    "trainer.sampling.temperature, or more trainer.num_generations"
)


class EqualGroups:
    """Counts the steps whose rewards taught nothing: an answer is learned from by how much better
    it is than the others to the same prompt."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._num_equal = 0
        self._num_in_a_row = 0
        self._is_equal = False
        self._said_again = False

    def after_step(self, step: int, metrics: Mapping[str, float]) -> str:
        """What there is to say of step `step`, from 1; mostly nothing, which is empty.

        Args:
            metrics: of the step; without a ratio, it went over the same answers as the one before.
        """
        self._is_equal = metrics.get("equal_groups_ratio", float(self._is_equal)) == 1.0
        self._num_steps += 1
        self._num_in_a_row = self._num_in_a_row + 1 if self._is_equal else 0
        if not self._is_equal:
            return ""
        self._num_equal += 1
        if self._num_equal == 1:
            return (
                f"warning: step {step}: all answers to each prompt got equal rewards, so rewards "
                f"taught nothing; if that goes on, {_WHAT_TO_DO}"
            )
        if self._num_in_a_row >= MANY_IN_A_ROW and not self._said_again:
            self._said_again = True
            return (
                f"warning: step {step}: rewards taught nothing in the last {self._num_in_a_row} "
                f"steps, as all answers to each prompt got equal ones; {_WHAT_TO_DO}"
            )
        return ""

    def summary(self) -> str:
        """What there is to say of all steps since this start; empty if each of them taught."""
        if not self._num_equal:
            return ""
        return (
            f"warning: rewards taught nothing in {self._num_equal:,} of {self._num_steps:,} steps, "
            "where all answers to each prompt got equal ones"
        )
