"""`framework launch`: real processes, stopped, killed and failing; none of them stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import read_rows

NUM_STEPS = 400
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `framework launch`; whatever is left of it when the test ends is killed."""
    started: list[subprocess.Popen[str]] = []

    def launch(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "framework", "launch", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "LAUNCH_TEST": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for one in left_over(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    for process in started:
        process.wait()


def left_over(mark: Path) -> list[psutil.Process]:
    """Every process that a launch of this test started, whoever is its parent now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_ours = process.environ().get("LAUNCH_TEST") == str(mark)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        if process.poll() is not None and not condition():
            pytest.fail(process.communicate()[0])
        time.sleep(0.05)


def num_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def until_none_is_left(mark: Path) -> None:
    deadline = time.monotonic() + 120
    while left_over(mark):
        assert time.monotonic() < deadline, [one.cmdline() for one in left_over(mark)]
        time.sleep(0.1)


def long_recipe(write_recipe, **trainer) -> Path:
    settings = {"max_steps": NUM_STEPS, "micro_batch_size": 1, "global_batch_size": 2, **trainer}
    return write_recipe(adapter="lora", trainer=settings, checkpoint={"every_steps": NUM_STEPS})


def test_two_processes_are_stopped_go_on_and_pass_their_exit_codes_through(
    write_recipe, start, tmp_path
):
    recipe, run = long_recipe(write_recipe), tmp_path / "run"
    process = start(recipe, "--processes", 2)
    until(lambda: num_steps(run) >= 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "stopped by a signal after step" in output.splitlines()[-1]
    assert left_over(tmp_path) == []
    done = num_steps(run)
    assert (run / "checkpoints" / f"step-{done:08d}" / "manifest.json").is_file()
    assert json.loads((run / "plan.json").read_text())["num_devices"] == 2

    refused = start(recipe, "trainer.seed=5")
    output, _ = refused.communicate(timeout=120)
    assert refused.returncode == 3, output
    wanted = "command line:1:14: trainer.seed: is 5, the run in"
    assert output.splitlines()[-1].startswith(wanted)
    assert left_over(tmp_path) == []


def test_a_killed_launch_leaves_no_process_and_its_state_is_saved(write_recipe, start, tmp_path):
    recipe, run = long_recipe(write_recipe), tmp_path / "run"
    process = start(recipe)
    until(lambda: num_steps(run) >= 3, process)
    process.kill()
    until_none_is_left(tmp_path)
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert (checkpoint / "manifest.json").is_file()


@pytest.mark.long
def test_the_shown_command_does_the_same(write_recipe, start, tmp_path):
    recipe = write_recipe("it's $(touch not) a recipe.yaml", trainer={"max_steps": 1})
    process = start(recipe, "--dry-run", "data.max_length=64", "output.dir=a b")
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert not (tmp_path / "run").exists()
    done = subprocess.run(
        ["bash", "-c", shown], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "a b" / "metrics.jsonl")) == 1
    assert not (tmp_path / "not").exists()


def test_processes_that_accelerate_silently_leaves_out_are_missed(write_recipe, tmp_path):
    command = "-m accelerate.commands.launch --cpu --num_processes 2 -m framework.train {}"
    done = subprocess.run(
        [sys.executable, *shlex.split(command.format(shlex.quote(str(write_recipe()))))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "accelerate was asked for several processes and has started one" in done.stderr
    assert not (tmp_path / "run").exists()
