"""Models with a head of numbers learn what tells rows apart, and it holds for rows never seen."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import write_rows

from framework.train import run

pytestmark = pytest.mark.slow
WORDS = {"good": ("fine", "great", "lovely"), "bad": ("awful", "poor", "broken")}
NUM_ROWS, NUM_HELD_OUT = 512, 48
"""So many rows that none is learned by its noise, in whatever order: that changes whenever the code
does that prepares them."""


def said(source: random.Random, kind: str) -> str:
    """A word of one kind between letters that mean nothing."""
    noise = "".join(source.choice("abcdefgh ") for _ in range(6))
    return f"{noise} {source.choice(WORDS[kind])} {noise[::-1]}"


def preference(source: random.Random) -> dict[str, Any]:
    return {"prompt": "How?", "chosen": said(source, "good"), "rejected": said(source, "bad")}


def classified(source: random.Random) -> dict[str, Any]:
    label = source.choice(sorted(WORDS))
    return {"text": said(source, label), "label": label}


def scored(source: random.Random) -> dict[str, Any]:
    kind = source.choice(sorted(WORDS))
    return {"text": said(source, kind), "score": 1.0 if kind == "good" else -1.0}


def stepwise(source: random.Random) -> dict[str, Any]:
    kinds = [source.choice(sorted(WORDS)) for _ in range(3)]
    steps = [said(source, kind) for kind in kinds]
    return {"prompt": "Go.", "completions": steps, "labels": [kind == "good" for kind in kinds]}


def learned(
    make, form: str, trainer: dict[str, Any], write_recipe, tmp_path: Path, **settings: Any
) -> dict[str, float]:
    """Metrics of held-out rows after training."""
    source = random.Random(7)
    rows = [make(source) for _ in range(NUM_ROWS + NUM_HELD_OUT)]
    write_rows(tmp_path / "rated.jsonl", rows[:NUM_ROWS])
    write_rows(tmp_path / "held_out.jsonl", rows[NUM_ROWS:])
    data = {
        "train": [{"source": "./rated.jsonl", "format": form}],
        "eval": [{"source": "./held_out.jsonl", "format": form}],
        "max_length": 128,
        "packing": False,
    }
    shape = {"global_batch_size": 16, "micro_batch_size": 16, "max_steps": 90}
    recipe = write_recipe(
        model={"dtype": "float32"},
        data=data,
        trainer={**shape, "learning_rate": 5e-3, **trainer},
        **settings,
    )
    run(recipe)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(row for row in reversed([json.loads(line) for line in lines]) if "eval_loss" in row)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_reward_model_ranks_held_out_pairs(adapter, write_recipe, tmp_path):
    metrics = learned(
        preference, "preference", {"type": "reward"}, write_recipe, tmp_path, adapter=adapter
    )
    assert metrics["eval_reward_accuracy"] > 0.9


def test_the_classifier_tells_held_out_rows_apart(write_recipe, tmp_path):
    trainer = {"type": "classifier", "labels": ["good", "bad"]}
    metrics = learned(classified, "classification", trainer, write_recipe, tmp_path)
    assert metrics["eval_accuracy"] > 0.95


def test_the_regression_predicts_held_out_scores(write_recipe, tmp_path):
    metrics = learned(scored, "regression", {"type": "regression"}, write_recipe, tmp_path)
    assert metrics["eval_loss"] < 0.1  # 1 is the error of the mean


def test_the_process_reward_model_finds_the_wrong_steps(write_recipe, tmp_path):
    trainer = {"type": "process_reward"}
    metrics = learned(stepwise, "stepwise", trainer, write_recipe, tmp_path)
    assert metrics["eval_step_accuracy"] > 0.9
