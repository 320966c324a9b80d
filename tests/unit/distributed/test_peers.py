"""What one of several processes runs into, all of them end with, and each node tells it once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from forks import NUM_PROCESSES, nodes_that_said, read_groups
from misbehaving import BAD_RANK, BAD_STEP, HOW
from warm_start import run_group

from framework.distributed.peers import differences

SCRIPT = Path(__file__).parents[2] / "misbehaving.py"
AGAIN = SCRIPT.with_name("meeting_again.py")
HOST = socket.gethostname()
BAD = f"rank {BAD_RANK} on {HOST}, in step {BAD_STEP}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """How -> exit codes of the processes and the lines that each has said."""
    folder = tmp_path_factory.mktemp("ended")
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], start_new_session=True)
    try:
        assert process.wait(300) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return read_groups(folder)


def test_processes_that_behave_say_nothing_and_end_well(ended):
    assert ended["behaves"] == {"codes": [0] * NUM_PROCESSES, "said": [["done"]] * NUM_PROCESSES}


@pytest.mark.parametrize(
    ("how", "codes", "says"),
    [
        ("stops", [1, 1, 1], f"lost: {BAD}; nothing was heard of it for"),
        ("dies", [1, 1, -signal.SIGKILL], f"lost: {BAD}; nothing was heard of it for"),
        ("fails with all", [1, 1, 1], f"step {BAD_STEP}: loss is nan"),
        (
            "differs",
            [2, 2, 2],
            f"learning_rate: is 0.002 on {HOST} (rank 2), but 0.001 on {HOST} (rank 0)",
        ),
    ],
)
def test_every_node_tells_once_what_happened(ended, how, codes, says):
    assert ended[how]["codes"] == codes
    assert nodes_that_said(ended[how]["said"], says) == [0, 1]


@pytest.mark.parametrize("how", [how for how in HOW if how not in {"behaves", "has a bug"}])
def test_a_process_says_one_line_at_most(ended, how):
    assert [len(lines) for lines in ended[how]["said"] if len(lines) > 1] == []


def test_one_that_keeps_the_others_waiting_is_told_with_the_line_that_it_is_in(ended):
    assert ended["hangs"]["codes"] == [1, 1, 1]
    said = ended["hangs"]["said"]
    waiting = f"in step {BAD_STEP}, waited for the others"
    assert nodes_that_said(said, waiting) == [0, 1]
    assert nodes_that_said(said, f"{BAD} is at framework/distributed/peers.py:") == [0, 1]


def test_the_others_end_with_the_error_of_the_one_that_failed(ended):
    assert ended["fails"]["codes"] == [1, 1, 1]
    said = ended["fails"]["said"]
    assert said[0] == [f"{BAD}, ended: the disk is full; free space"]
    assert sorted(said[1] + said[2]) == ["the disk is full; free space"]


def test_a_bug_ends_all_and_shows_its_traceback_where_it_is(ended):
    assert ended["has a bug"]["codes"] == [1, 1, 1]
    bug = "ZeroDivisionError: nobody thought of that"
    assert ended["has a bug"]["said"][0] == [f"{BAD}, ended: {bug}"]
    assert ended["has a bug"]["said"][BAD_RANK][-1] == bug


def test_processes_that_failed_and_meet_again_end_as_what_they_did_last(warm):
    group = run_group(["--run", str(AGAIN)], 2, seconds=60)
    assert (group.codes, group.output.count("met again")) == ([0, 0], 2), group.output
    assert group.output.count("the disk is full") == 1


def test_every_node_that_differs_from_the_main_one_is_named_once_for_each_fact():
    main = {"host": "a", "facts": {"seed": "1", "torch": "2.13"}}
    other = {"host": "b", "facts": {"seed": "2", "numpy": "2"}}
    found = differences([main, main, other, other], hint="start them alike")
    assert [str(one) for one in found] == [
        "seed: is 2 on b (rank 2), but 1 on a (rank 0); start them alike",
        "torch: is missing on b (rank 2), but 2.13 on a (rank 0); start them alike",
        "numpy: is 2 on b (rank 2), but missing on a (rank 0); start them alike",
    ]
