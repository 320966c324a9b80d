"""However the rows of a global batch are packed and dealt to processes, heads learn the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, write_rows
from safetensors.torch import load_file

from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve
from framework.train import run

NUM_ROWS = 8
NUM_PACKS = 4
NUM_STEPS = 3
TOLERANCE = 1e-5  # float32 sums in another order
WORDS = (
    "a",
    "fine",
    "day",
    "for",
    "all",
    "who",
    "went",
    "out",
    "and",
    "came",
    "back",
    "by",
    "night",
)


def said(number: int) -> str:
    return " ".join(WORDS[: 2 + 3 * number % 11])


def classified(number: int) -> dict[str, Any]:
    return {"text": said(number), "label": "good" if number % 3 else "bad"}


def preferred(number: int) -> dict[str, Any]:
    return {"prompt": f"Say {number}.", "chosen": said(number), "rejected": said(number + 5)}


def stepwise(number: int) -> dict[str, Any]:
    steps = [said(number + at) for at in range(1 + number % 3)]
    return {"prompt": "Go.", "completions": steps, "labels": [len(one) > 20 for one in steps]}


CASES: dict[str, dict[str, Any]] = {
    "classifier": {
        "row": classified,
        "format": "classification",
        "trainer": {"labels": ["good", "bad"], "class_weights": {"bad": 3.0}},
        "packed_length": 56,
    },
    "process_reward": {"row": stepwise, "format": "stepwise", "packed_length": 150},
    "reward": {
        "row": preferred,
        "format": "preference",
        "trainer": {"center_rewards_coefficient": 0.1},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", CASES)
def test_packs_and_processes_change_neither_losses_nor_weights(
    trainer, write_recipe, launched, tmp_path
):
    case = CASES[trainer]
    write_rows(tmp_path / "rated.jsonl", [case["row"](number) for number in range(NUM_ROWS)])
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={
            "train": [{"source": "./rated.jsonl", "format": case["format"]}],
            "packing": False,
        },
        trainer={
            "type": trainer,
            # Every step learns from all rows, whose order is then without meaning.
            "global_batch_size": NUM_ROWS,
            "micro_batch_size": NUM_ROWS,
            "max_steps": NUM_STEPS,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": None,
            **case.get("trainer", {}),
        },
    )
    parts = ["trainer.micro_batch_size=1"]
    if "packed_length" in case:
        parts += ["data.packing=true", f"data.max_length={case['packed_length']}"]
        # All rows together share what they begin with; each pack's do not.
        parts += [f"trainer.global_batch_size={NUM_PACKS}", "data.share_prefixes=false"]
        assert prepare_data(resolve(recipe, parts)).train.num_units == NUM_PACKS
    whole, split, two = tmp_path / "whole", tmp_path / "split", tmp_path / "two"
    run(recipe, [f"output.dir={whole}"])
    run(recipe, [f"output.dir={split}", *parts])
    launched(recipe, f"output.dir={two}", *parts, num_processes=2)
    wanted = learned(whole)
    assert len(wanted) == NUM_STEPS
    for folder in (split, two):
        assert learned(folder) == [pytest.approx(row, rel=TOLERANCE, abs=1e-6) for row in wanted]
        assert distance(folder, whole) < TOLERANCE


def learned(folder: Path) -> list[dict[str, float]]:
    """The loss, the gradients' norm and the trainer's own metrics of each step."""
    apart = {"step", "epoch", "learning_rate", "tokens_per_second", "peak_rss_bytes"}
    apart.add("shared_tokens")  # not what is learned, but how it is computed
    return [
        {name: value for name, value in row.items() if name not in apart}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def distance(folder: Path, other: Path) -> float:
    """Largest relative difference of a weight matrix."""
    ours = load_file(folder / "final" / "model.safetensors")
    theirs = load_file(other / "final" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    gaps = [(ours[name] - theirs[name]).norm() / theirs[name].norm() for name in ours]
    return float(torch.stack(gaps).max())
