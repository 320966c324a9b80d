"""Two nodes train as one process does, and lose nothing when one of them is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import read_rows
from safetensors.numpy import load_file
from two_nodes import ELASTIC, Launched, Node, direct, launched, missing, two_nodes

from framework.train import run as train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
NUM_STEPS, EVERY_STEPS = 100, 5


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with two_nodes(tmp_path_factory.mktemp("nodes")) as both:
        yield both


def num_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def until(condition: Callable[[], object], runs: list[Launched]) -> None:
    while not condition():
        for run in runs:
            assert run.process.poll() is None, run.output
        time.sleep(0.02)


def gone_on(runs: list[Launched], run: Path) -> None:
    """Returns once they have resumed and done a few steps more."""
    until(lambda: any("going on after step" in one.output for one in runs), runs)
    done = num_steps(run)
    until(lambda: num_steps(run) >= done + 3, runs)


@pytest.fixture
def recipe(write_recipe: Callable[..., Path]) -> Path:
    return write_recipe(
        model={"dtype": "float32"},
        trainer={"max_steps": NUM_STEPS, "optimizer": "sgd", "learning_rate": 1e-2},
        checkpoint={"every_steps": EVERY_STEPS},
    )


@pytest.mark.long
def test_two_nodes_save_and_end_when_one_process_is_asked_to_and_go_on_as_one_process_does(
    nodes, recipe, tmp_path
):
    run, chosen = tmp_path / "run", "strategy=fsdp"
    runs = [direct(node, recipe, chosen) for node in nodes]
    until(lambda: num_steps(run) >= 3, runs)
    os.kill(nodes[1].trainers()[0], signal.SIGTERM)
    assert [one.wait() for one in runs] == [75, 75], [one.output for one in runs]
    assert [one.output.count("stopped by a signal after step") for one in runs] == [1, 1]
    assert (run / "checkpoints" / f"step-{num_steps(run):08d}" / "manifest.json").is_file()

    runs = [direct(node, recipe, chosen) for node in nodes]
    assert [one.wait() for one in runs] == [0, 0], [one.output for one in runs]
    assert_same(run, alone(recipe, tmp_path))


@pytest.mark.long
def test_a_lost_node_is_named_and_a_killed_process_is_started_again(nodes, recipe, tmp_path):
    run, second = tmp_path / "run", nodes[1]
    runs = [launched(node, recipe) for node in nodes]
    until(lambda: num_steps(run) > EVERY_STEPS, runs)
    second.kill()
    assert runs[0].wait() == 1
    assert "lost: rank 1 on node-b, in step " in runs[0].output
    assert nodes[0].trainers() == []

    # The launcher of the killed process starts all again, and they go on by themselves.
    runs = [launched(node, recipe, rendezvous=ELASTIC) for node in nodes]
    gone_on(runs, run)
    os.kill(second.trainers()[0], signal.SIGKILL)
    assert [one.wait(400) for one in runs] == [0, 0], [one.output for one in runs]
    assert sum(one.output.count("going on after step") for one in runs) == 2
    assert_same(run, alone(recipe, tmp_path))


def alone(recipe: Path, folder: Path) -> Path:
    """The run of this process."""
    train(recipe, [f"output.dir={folder / 'alone'}"])
    return folder / "alone"


def assert_same(one: Path, other: Path) -> None:
    """What two processes add up, one adds up in another order."""
    assert len(losses(one)) == NUM_STEPS
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-6)
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        np.testing.assert_allclose(weights, theirs[name], atol=1e-6, err_msg=name)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl")]
