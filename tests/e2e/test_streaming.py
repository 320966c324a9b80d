"""A run on streamed data is interrupted inside a buffer and goes on, also on two processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import conversation, read_rows, samples_of_steps, write_rows


def worker_of(process) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]


@pytest.mark.long
def test_a_streamed_run_resumes_exactly_and_on_another_number_of_processes(
    write_recipe, launch, launched, tmp_path
):
    write_rows(tmp_path / "train.jsonl", [conversation(number) for number in range(150)])
    recipe = write_recipe(
        data={"streaming": {"buffer_rows": 40}},
        trainer={"max_steps": 60, "learning_rate": 1e-3, "global_batch_size": 4},
        checkpoint={"every_steps": 7, "keep_last": 20},
        model={"dtype": "float32"},
    )
    whole, cut, shared = tmp_path / "whole", tmp_path / "cut", tmp_path / "shared"
    output = launched(recipe, f"output.dir={whole}")
    assert "train: streamed" in output
    # 150 rows are passed over several times.
    assert read_rows(whole / "metrics.jsonl")[-1]["epoch"] >= 2

    process = launch(recipe, f"output.dir={cut}")
    metrics = cut / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 9):
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    os.kill(worker_of(process), signal.SIGTERM)
    process.communicate(timeout=120)
    done = len(losses(cut))
    assert 10 <= done < 60
    shutil.copytree(cut, shared)
    assert f"going on after step {done}" in launched(recipe, f"output.dir={cut}")
    assert losses(cut) == losses(whole)
    assert read_rows(cut / "samples.jsonl") == read_rows(whole / "samples.jsonl")

    launched(recipe, f"output.dir={shared}", num_processes=2)
    assert samples_of_steps(shared) == samples_of_steps(whole)
    assert losses(shared) == pytest.approx(losses(whole), rel=1e-5)
