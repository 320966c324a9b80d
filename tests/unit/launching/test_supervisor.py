"""Launchers and workers as small programs: how they end, and that none of them stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from framework.launching.supervisor import Report, outcome

WORKER = """
import pathlib, signal, sys, time
from framework.core.launched import announce, report_end
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
announce()
pathlib.Path(sys.argv[1]).touch()
while not stopped: time.sleep(0.02)
time.sleep(0.3)  # saves its state
pathlib.Path(sys.argv[1] + ".saved").touch()
report_end(75, "stopped")
sys.exit(75)
"""
LAUNCHER = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
sys.exit(worker.wait() and 1)
"""
SUPERVISOR = """
import sys
from framework.launching.job import Command
from framework.launching.supervisor import supervise
command = Command(arguments=(sys.executable, "-c", *sys.argv[1:]))
sys.exit(supervise(command, num_workers=1).exit_code)
"""


def supervisor(launcher: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SUPERVISOR, launcher, *arguments])


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_is_told_once_saves_and_the_exit_code_is_its_own(tmp_path, number):
    process = supervisor(LAUNCHER, WORKER, str(tmp_path / "up"))
    wait_for(tmp_path / "up")
    process.send_signal(number)
    assert process.wait(60) == 75
    assert (tmp_path / "up.saved").exists()


def test_a_worker_whose_launcher_is_killed_saves_and_is_waited_for(tmp_path):
    process = supervisor(LAUNCHER, WORKER, str(tmp_path / "up"))
    wait_for(tmp_path / "up")
    launcher, worker = family(process)
    launcher.kill()
    assert process.wait(60) == 75
    assert (tmp_path / "up.saved").exists()
    assert not worker.is_running()


def test_a_worker_whose_supervisor_is_killed_saves_and_ends(tmp_path):
    process = supervisor(LAUNCHER, WORKER, str(tmp_path / "up"))
    wait_for(tmp_path / "up")
    launcher, worker = family(process)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    psutil.wait_procs([launcher, worker], timeout=60)
    assert not launcher.is_running()
    assert not worker.is_running()
    assert (tmp_path / "up.saved").exists()


def test_what_a_launcher_leaves_behind_is_ended(tmp_path):
    leave = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    sleeper = (
        f"import time, pathlib; pathlib.Path({str(tmp_path / 'up')!r}).touch(); time.sleep(90)"
    )
    process = supervisor(
        f"{leave}\nimport time, pathlib\n"
        f"while not pathlib.Path({str(tmp_path / 'up')!r}).exists(): time.sleep(0.02)",
        sleeper,
    )
    wait_for(tmp_path / "up")
    children = family(process)
    assert process.wait(60) == 0
    assert not any(child.is_running() for child in children)


def test_a_signal_before_any_worker_is_known_ends_the_launcher(tmp_path):
    up = str(tmp_path / "up")
    process = supervisor(
        "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(90)", up
    )
    wait_for(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75


def test_a_process_that_nobody_launched_tells_nobody(tmp_path):
    environment = {name: value for name, value in os.environ.items() if "FRAMEWORK" not in name}
    code = "from framework.core.launched import *; announce(); report_end(1, '')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def reports(*codes: int) -> list[Report]:
    return [Report(rank=rank, exit_code=code, message="") for rank, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("launcher_code", "codes", "asked", "expected"),
    [
        (0, [], False, 0),
        (0, [], True, 0),
        (1, [75, 75], False, 75),
        (1, [75], True, 75),  # the other one was killed while it was preparing data
        (1, [], True, 75),
        (1, [75], False, 1),  # the other one died without a word: no run to go on with
        (1, [3, 1], False, 3),
        (1, [75, 2], True, 2),
        (-9, [], False, 137),
    ],
)
def test_the_exit_code_says_why_a_launch_ended(launcher_code, codes, asked, expected):
    found = outcome(launcher_code, reports(*codes), num_workers=2, asked_to_stop=asked)
    assert found == expected
