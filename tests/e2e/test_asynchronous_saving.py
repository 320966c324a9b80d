"""A checkpoint that is written while training goes on is the one that would have been written."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from prove import faults
from runs_in_processes import launch_together
from warm_start import FRAMEWORK, framework

from framework.engine.checkpoint import newest_checkpoint

pytestmark = pytest.mark.usefixtures("warm")

ASYNCHRONOUS = "checkpoint.asynchronous=true"


train = partial(framework, "train")


def contents(checkpoint: Path) -> dict[str, bytes]:
    """Of each file but the manifest; times left out."""
    found = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    del found["manifest.json"]
    state = json.loads(found["state.json"])
    del state["progress"]["training_seconds"]
    return {**found, "state.json": json.dumps(state).encode()}


def test_each_checkpoint_is_the_same_byte_for_byte(write_recipe, tmp_path):
    recipe = write_recipe(
        trainer={"max_steps": 6, "ema": {}}, checkpoint={"every_steps": 1, "keep_last": 9}
    )
    for name, override in (("now", "checkpoint.keep_last=9"), ("later", ASYNCHRONOUS)):
        ended = train(recipe, f"output.dir={tmp_path / name}", override)
        assert ended.returncode == 0, ended.stderr
    assert_same_checkpoints(tmp_path / "now", tmp_path / "later", 6)


def assert_same_checkpoints(now: Path, later: Path, number: int) -> None:
    one, other = (sorted((run / "checkpoints").iterdir()) for run in (now, later))
    assert [path.name for path in one] == [path.name for path in other]
    assert len(one) == number
    for first, second in zip(one, other, strict=True):
        assert contents(first) == contents(second)


STRATEGIES = ("ddp", "fsdp", "{type: deepspeed, stage: 2}", "{type: deepspeed, stage: 3}")


@pytest.mark.slow
def test_each_process_writes_the_same_part_byte_for_byte(write_recipe, tmp_path):
    recipe = write_recipe(
        model={"dtype": "float32"},
        trainer={"max_steps": 4},
        checkpoint={"every_steps": 1, "keep_last": 9},
    )
    runs = [
        [str(recipe), f"output.dir={tmp_path / name}-{number}", f"strategy={strategy}", override]
        for number, strategy in enumerate(STRATEGIES)
        for name, override in (("now", "checkpoint.keep_last=9"), ("later", ASYNCHRONOUS))
    ]
    launch_together(tmp_path, runs)
    for number, strategy in enumerate(STRATEGIES):
        assert_same_checkpoints(tmp_path / f"now-{number}", tmp_path / f"later-{number}", 4)
        checkpoint = tmp_path / f"later-{number}" / "checkpoints" / "step-00000004"
        assert (checkpoint / "state-00001.safetensors").exists() == (strategy != "ddp")


@pytest.mark.slow
def test_a_process_that_can_not_write_its_part_ends_all_and_nothing_is_left(write_recipe, tmp_path):
    """The second process has less room than the first."""
    recipe = write_recipe(trainer={"max_steps": 8}, checkpoint={"every_steps": 2})
    trial = faults.Trial(recipe, tmp_path / "run", random.Random(0), 2)
    trial.limits = {1: 50_000}
    processes = trial.start(ASYNCHRONOUS, "strategy=fsdp")
    said = trial.ends(processes, 60)
    assert [process.returncode for process in processes] == [1, 1], said
    assert not trial.failures
    assert "".join(said).count("free space and start the same command") == 1, said
    assert "Traceback" not in "".join(said)
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []


@pytest.mark.long
def test_two_processes_that_are_killed_while_they_write_lose_nothing(tmp_path, tiny_model_dir):
    row = faults.killed_while_saving(tmp_path, tiny_model_dir, num_tries=3, strategies=("fsdp",))
    assert (row.tries, row.failures) == (3, 0), row.notes
    assert "0 of the kills hit" not in row.notes


def test_a_full_disk_ends_the_run_as_it_does_otherwise(write_recipe, tmp_path):
    recipe = write_recipe(trainer={"max_steps": 8}, checkpoint={"every_steps": 2})

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    ended = train(recipe, ASYNCHRONOUS, preexec_fn=small_files)
    assert ended.returncode == 1, ended.stderr
    assert "free space and start the same command" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []


def test_killed_or_stopped_in_the_middle_only_complete_ones_are_there(write_recipe, tmp_path):
    recipe = write_recipe(
        trainer={"max_steps": 100_000, "lr_scheduler_type": "constant"},
        checkpoint={"every_steps": 1},
    )
    chance, checkpoints = random.Random(5), tmp_path / "run" / "checkpoints"
    reached = 0
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [*FRAMEWORK, "train", str(recipe), ASYNCHRONOUS],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not any(int(path.name[-8:]) > reached for path in checkpoints.glob("step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        time.sleep(chance.random())
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        path, warnings = newest_checkpoint(checkpoints)
        assert not warnings
        assert path is not None
        reached, before = int(path.name[-8:]), reached
        assert reached > before
        if number == signal.SIGTERM:
            assert process.returncode == 75, said
            assert f"after step {reached}; the state is saved" in said
