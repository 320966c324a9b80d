"""The quickstart's first ten steps on its real model, through the real command."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import read_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart" / "lora.yaml"


@pytest.mark.slow
def test_ten_steps_teach_the_real_model_something(launch, tmp_path):
    run = tmp_path / "run"
    process = launch(
        RECIPE,
        f"output.dir={run}",
        "trainer.max_steps=10",
        "trainer.global_batch_size=1",
        "trainer.micro_batch_size=1",
        "trainer.warmup_steps=2",
        "evaluation.every_steps=10",
        "evaluation.evaluators.0.num_rows=2",
        "evaluation.num_generations=1",
        "data.eval.0.rows=':6'",
    )
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    rows = read_rows(run / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 10
    assert sum(losses[-3:]) / 3 < 0.6 * losses[0]
    assert [row["step"] for row in rows if "eval_loss" in row] == [10]
    assert "exact_match on 2 held-out requests" in " ".join(output.split())
    assert "4,884,480 trained" in output  # LoRA of rank 16 on the 210 linear layers
    assert (run / "final" / "adapter_model.safetensors").is_file()
    assert (run / "report.html").stat().st_size > 10_000
