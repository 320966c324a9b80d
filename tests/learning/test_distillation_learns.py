"""A student comes close to its teacher on the training text."""

from __future__ import annotations

import pytest
from conftest import read_rows

from framework.train import run

LEAST_CLOSED = 0.8
"""Part of the first divergence that must be gone at the end."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"divergence": "reverse_kl"},
        {"divergence": "jsd", "top_k": 16},
    ],
    ids=lambda settings: settings.get("divergence", "forward_kl"),
)
def test_most_of_the_gap_between_student_and_teacher_is_closed(
    write_recipe, opinionated_model_dir, tmp_path, settings
):
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={
            "train": [{"source": "./train.jsonl"}],
            "eval": [{"source": "./train.jsonl"}],
            "max_length": 512,
        },
        trainer={
            "type": "distillation",
            "teacher": str(opinionated_model_dir),
            # All of the data in every step.
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "max_steps": 80,
            "learning_rate": 1e-2,
            **settings,
        },
    )
    run(recipe)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    before, after = rows[0]["divergence"], rows[-1]["eval_divergence"]
    assert before > 0.05, "there must be something to learn"
    print(f"divergence {before:.4f} -> {after:.4f}, {1 - after / before:.1%} closed")
    assert after < (1 - LEAST_CLOSED) * before
