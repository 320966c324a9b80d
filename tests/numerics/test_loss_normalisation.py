"""However a global batch is split, its loss and its gradient are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import read_rows, samples_of_steps, write_rows
from safetensors.torch import load_file

GLOBAL_BATCH_SIZE = 8
LEARNING_RATE = 100.0
RELATIVE_TOLERANCE = 1e-5  # float32 sums in another order
SETTINGS = {
    "model": {"dtype": "float32"},
    "data": {"packing": False},
    # One step of plain SGD: the change of the weights is the gradient times the learning rate,
    # which is large so that the weights' own rounding stays far below the tolerance.
    "trainer": {
        "global_batch_size": GLOBAL_BATCH_SIZE,
        "max_steps": 1,
        "learning_rate": LEARNING_RATE,
        "optimizer": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": None,
    },
}


def gradient(run: Path, model_dir: Path) -> dict[str, torch.Tensor]:
    before = load_file(model_dir / "model.safetensors")
    after = load_file(run / "final" / "model.safetensors")
    return {name: (before[name] - after[name]) / LEARNING_RATE for name in before}


def weighted_sequences(tmp_path: Path) -> list[str]:
    """Rows of different weights, and a mean over documents instead of tokens."""
    rows = read_rows(tmp_path / "train.jsonl")
    write_rows(
        tmp_path / "train.jsonl", [{**row, "quality": 1 + at % 3} for at, row in enumerate(rows)]
    )
    return ["+data.train.0.loss_weight_column=quality", "+trainer.loss_normalisation=sequence"]


@pytest.mark.parametrize("packing", [False, True], ids=["tokens", "packed weighted sequences"])
def test_eight_at_once_one_by_one_and_on_two_processes_agree(
    write_recipe, launched, tmp_path, tiny_model_dir, packing
):
    recipe = write_recipe(**SETTINGS)
    further = weighted_sequences(tmp_path) if packing else []
    splits = {"8x1": (8, 1), "1x8": (1, 1), "2 processes x 4": (4, 2)}
    gradients, rows = {}, {}
    for name, (micro_batch_size, num_processes) in splits.items():
        run = tmp_path / name.replace(" ", "")
        launched(
            recipe,
            f"trainer.micro_batch_size={micro_batch_size}",
            f"data.packing={str(packing).lower()}",
            f"output.dir={run}",
            *further,
            num_processes=num_processes,
        )
        gradients[name] = gradient(run, tiny_model_dir)
        rows[name] = read_rows(run / "metrics.jsonl")[0]
        assert samples_of_steps(run) == samples_of_steps(tmp_path / "8x1")
    whole = gradients["8x1"]
    assert sum(part.norm() ** 2 for part in whole.values()) > 1e-3
    for name, parts in gradients.items():
        assert rows[name]["loss"] == pytest.approx(rows["8x1"]["loss"], rel=RELATIVE_TOLERANCE)
        assert rows[name]["num_trained_tokens"] == rows["8x1"]["num_trained_tokens"]
        for weight, part in parts.items():
            error = (part - whole[weight]).norm() / whole[weight].norm().clamp_min(1e-12)
            assert error < RELATIVE_TOLERANCE, (name, weight, error)
