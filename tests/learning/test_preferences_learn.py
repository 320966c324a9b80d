"""Each preference trainer learns to prefer the better of two answers, on pairs it has not seen."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from conftest import write_rows

from framework.train import run

pytestmark = pytest.mark.slow
WORDS = ("red", "green", "blue", "gold", "grey", "pink")
GOOD, BAD = ("Yes, {}.", "Sure, {}."), ("No.", "Never {}.")


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with numbers of their own; polite answers are better."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        word = source.choice(WORDS)
        rows.append(
            {
                "prompt": f"Paint {source.randrange(1000)} {word}?",
                "chosen": source.choice(GOOD).format(word),
                "rejected": source.choice(BAD).format(word),
            }
        )
    return rows


TRAINERS: dict[str, dict[str, Any]] = {
    "dpo": {"precompute_reference": True},
    "orpo": {"beta": 1.0},
    "simpo": {},
    "cpo": {},
    "kto": {},
}


@pytest.mark.parametrize("name", TRAINERS)
def test_the_better_of_two_held_out_answers_is_preferred(write_recipe, tmp_path, name):
    parts = {"train": pairs(64, seed=1), "eval": pairs(32, seed=2)}
    if name == "kto":
        parts = {
            part: [
                {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for row in rows
                for side in ("chosen", "rejected")
            ]
            for part, rows in parts.items()
        }
    for part, rows in parts.items():
        write_rows(tmp_path / f"{part}_rated.jsonl", rows)
    format_ = "unpaired_preference" if name == "kto" else "preference"
    run(
        write_recipe(
            data={
                **{
                    part: [{"source": f"./{part}_rated.jsonl", "format": format_}] for part in parts
                },
                "packing": False,
            },
            trainer={
                "type": name,
                "global_batch_size": 16,
                "micro_batch_size": 16,
                "max_steps": 30,
                "learning_rate": 1e-2,
                **TRAINERS[name],
            },
            evaluation={"every_steps": 30},
        )
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[0]["reward_accuracy"] < 0.8, "there is something to learn"
    (row,) = [row for row in rows if "eval_loss" in row]
    assert row["eval_reward_accuracy"] > 0.95
    assert row["eval_reward_margin"] > 0
