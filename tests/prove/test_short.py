"""The short version of each proof that `make prove` runs at length."""

from __future__ import annotations

import pytest

from prove import damaged, faults, kill9, restarts, resume
from prove.rows import Row

pytestmark = [pytest.mark.usefixtures("warm"), pytest.mark.slow]


def assert_held(row: Row, tries: int) -> None:
    assert (row.tries, row.failures) == (tries, 0), row.notes


def test_kill_9_at_random_moments_loses_nothing(tmp_path, tiny_model_dir):
    assert_held(kill9.run(tmp_path, tiny_model_dir, num_kills=6, seed=1), 6)


@pytest.mark.long
def test_killed_processes_start_again_under_a_launcher_and_lose_nothing(tmp_path, tiny_model_dir):
    """Before the first step, in training and while saving."""
    assert_held(restarts.run(tmp_path, tiny_model_dir, num_runs=1, num_kills=3), 9)


def test_a_stop_in_each_place_changes_no_bit(tmp_path, tiny_model_dir):
    names = ("classifier-packed", "dpo-streamed", "grpo-unpacked")
    assert_held(resume.run(tmp_path, tiny_model_dir, names), 9)


def test_a_stop_on_one_of_two_processes_changes_no_bit(tmp_path, tiny_model_dir):
    assert_held(resume.run_together(tmp_path, tiny_model_dir, ("kto-unpacked",)), 3)


def test_damaged_checkpoints_are_found(tmp_path, tiny_model_dir):
    assert_held(damaged.run(tmp_path, tiny_model_dir, num_seeds=3), 3)


def test_sigterm_on_either_process_stops_both(tmp_path, tiny_model_dir):
    assert_held(faults.sigterm(tmp_path, tiny_model_dir, num_tries=2), 2)
