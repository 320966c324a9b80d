"""`framework submit ray` on a real Ray, of this machine alone."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import read_rows

import framework

NUM_STEPS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="the package 'ray' is not installed; pip install 'framework[ray]'",
    ),
]


def training(mark: Path) -> list[psutil.Process]:
    """The processes that train a recipe of this test."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "framework.train" in words and any(str(mark) in word for word in words):
                found.append(process)
    return found


def test_two_workers_train_are_stopped_and_go_on_by_themselves(write_recipe, tmp_path):
    recipe = write_recipe(
        adapter="lora",
        trainer={"max_steps": NUM_STEPS, "micro_batch_size": 1},
        checkpoint={"every_steps": NUM_STEPS},
    )
    values = {
        "processes_per_node": 2,
        "environment": {
            "PYTHONPATH": str(Path(framework.__file__).parent.parent),
            "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"],
            "OMP_NUM_THREADS": "1",
        },
        "working_directory": str(tmp_path),
        "submitters": [{"type": "ray", "address": "local"}],
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "framework", "submit", "ray", str(recipe)]
    process = subprocess.Popen(
        [*command, "--cluster", str(tmp_path / "cluster.yaml")],
        cwd=tmp_path,
        env={**os.environ, "RAY_memory_monitor_refresh_ms": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and len(read_rows(metrics)) >= 3):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    os.kill(training(tmp_path)[0].pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "ended with exit code 75" in output
    assert [row["step"] for row in read_rows(metrics) if "loss" in row] == [
        *range(1, NUM_STEPS + 1)
    ]
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["num_devices"] == 2
    assert training(tmp_path) == []
