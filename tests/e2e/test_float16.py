"""A run in float16 says which steps it leaves out, and goes on as if it hadn't been stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import warm_start
from conftest import make_tiny_model, read_rows
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("warm")

LOUDER = 30
"""Makes gradients of the hidden states that overflow twice, at the first scales that are tried."""


def framework(*arguments: object) -> str:
    ended = warm_start.framework(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def what_was_computed(run: Path) -> tuple[list[tuple[str, ...]], bytes]:
    keys = ("step", "loss", "grad_norm", "learning_rate", "num_overflows")
    rows = [tuple(str(row[key]) for key in keys) for row in read_rows(run / "metrics.jsonl")]
    return rows, (run / "final" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def loud_model(tmp_path: Path) -> Path:
    folder = make_tiny_model(tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * LOUDER
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_steps_that_overflow_are_told_of_and_counted_and_a_resumed_run_is_the_same(
    write_recipe, loud_model, tmp_path
):
    recipe = write_recipe(
        model={"source": str(loud_model), "dtype": "float16"},
        adapter={"type": "lora", "r": 4},
        data={"packing": False},
        trainer={"max_steps": 4, "global_batch_size": 4, "micro_batch_size": 1},
        checkpoint={"every_steps": 2},
    )
    run = tmp_path / "run"
    said = framework("train", recipe)
    overflowed = "float16 gradients overflowed, nothing was learned from it"
    assert f"step 1: {overflowed}; losses are scaled by 32768 now" in said
    assert f"step 2: {overflowed}; losses are scaled by 16384 now" in said
    assert "float16 overflowed in 2 steps" in said and "step 3: float16" not in said
    assert "optimizer.step" not in said
    rows = read_rows(run / "metrics.jsonl")
    assert [row["num_overflows"] for row in rows] == [1, 2, 2, 2]
    state = json.loads((run / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["states"]["loss_scale"]["scaler"]["scale"] == 16384

    through = what_was_computed(run)
    (run / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    said = framework("train", recipe)
    assert "goes on after step 2" in said
    assert overflowed not in said and "float16 overflowed in 2 steps" in said
    assert what_was_computed(run) == through


def test_no_loss_is_scaled_in_other_precisions(write_recipe, tmp_path):
    framework("train", write_recipe())
    (row, *_) = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert "num_overflows" not in row
