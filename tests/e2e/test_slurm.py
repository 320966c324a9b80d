"""`framework submit slurm` on a real Slurm of two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from conftest import read_rows

import framework

NUM_STEPS = 120
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not()),
]


def until(condition: Callable[[], object], logs: Path) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        written = "\n".join(log.read_text() for log in logs.glob("*.log"))
        assert time.monotonic() < deadline, written
        time.sleep(0.05)


def num_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_job_on_two_nodes_is_stopped_requeued_and_finishes_by_itself(
    write_recipe, tmp_path, monkeypatch
):
    recipe = write_recipe(
        adapter="lora",
        trainer={"max_steps": NUM_STEPS, "micro_batch_size": 1},
        checkpoint={"every_steps": NUM_STEPS},
    )
    cluster = tmp_path / "cluster.yaml"
    values = {
        "num_nodes": 2,
        "network_interface": "lo",
        "virtual_environment": sys.prefix,
        "environment": {
            "PYTHONPATH": str(Path(framework.__file__).parent.parent),
            "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"],
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        "submitters": [{"type": "slurm", "partition": "main"}],
    }
    cluster.write_text(yaml.safe_dump(values))
    logs, run = tmp_path / "job", tmp_path / "run"
    with slurm_cluster.slurm() as environment:

        def command(*words: str) -> str:
            return subprocess.run(
                words, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
            ).stdout

        submit = [sys.executable, "-m", "framework", "submit", "slurm", str(recipe)]
        said = command(*submit, "--cluster", str(cluster), "--output", str(logs))
        job = said.split()[-1]
        until(lambda: num_steps(run) >= 3, logs)
        # What Slurm does at the end of the time limit.
        command("scancel", "--batch", "--signal=TERM", job)
        until(lambda: "Restarts=1" in command("scontrol", "show", "job", job), logs)
        stopped = num_steps(run)
        assert 3 <= stopped < NUM_STEPS
        assert (run / "checkpoints" / f"step-{stopped:08d}" / "manifest.json").is_file()
        command("scontrol", "update", f"JobId={job}", "StartTime=now")
        until(lambda: "JobState=COMPLETED" in command("scontrol", "show", "job", job), logs)
    log = (logs / f"{job}.log").read_text()
    assert "stopped with its state saved" in log
    assert f"going on after step {stopped}" in log
    steps = [row["step"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]
    assert steps == list(range(1, NUM_STEPS + 1))
    assert json.loads((run / "plan.json").read_text())["num_devices"] == 2
