"""Passes as full as `micro_batch_size: auto` makes them change nothing but how sums are rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, samples_of_steps, write_rows
from safetensors.torch import load_file

from framework.core.world import World
from framework.data.prepared import prepare_data
from framework.data.units import StoredUnit
from framework.engine.feed import make_feed
from framework.planning.plan import make_plan
from framework.recipe.resolve import resolve_with_origins
from framework.train import run

NUM_ROWS = 16
LEARNING_RATE = 100.0
RELATIVE_TOLERANCE = 1e-5  # float32 sums in another order
SGD = {
    "global_batch_size": NUM_ROWS,
    "max_steps": 1,
    # The change of the weights is the gradient times the learning rate, which is large so that the
    # weights' own rounding stays far below the tolerance.
    "optimizer": "sgd",
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": None,
}


def said(number: int) -> str:
    """Texts of 60 to 300 tokens, no two of which begin alike."""
    return f"{number} and then " + "so on and on " * (5 + 7 * number % 19)


def talk(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"{number}?"},
            {"role": "assistant", "content": said(number)},
        ]
    }


def pair(number: int) -> dict[str, str]:
    return {"prompt": f"{number}?", "chosen": said(number), "rejected": said(number + 3)}


CASES: dict[str, dict[str, Any]] = {
    "sft": {"row": talk, "format": "messages", "num_rows": NUM_ROWS},
    "sft, packed": {"row": talk, "format": "messages", "packing": True, "num_rows": 30},
    "dpo": {"row": pair, "format": "preference", "num_rows": NUM_ROWS},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_one_of_single_units(name, write_recipe, launched, tmp_path, tiny_model_dir):
    case = CASES[name]
    write_rows(tmp_path / "rows.jsonl", [case["row"](number) for number in range(case["num_rows"])])
    dataset = {"source": "./rows.jsonl", "format": case["format"]}
    recipe = write_recipe(
        model={"dtype": "float32"},
        data={
            "train": [dataset],
            "eval": [dataset],
            "max_length": 400,
            "packing": case.get("packing", False),
        },
        trainer={**SGD, "type": name.partition(",")[0], "micro_batch_size": "auto"},
    )
    sizes = sizes_of_passes(recipe)
    assert len(sizes) > 1 and max(sizes) > 2, "some passes, of several units"
    folders = {key: tmp_path / key for key in ("single", "auto", "two")}
    run(recipe, [f"output.dir={folders['single']}", "trainer.micro_batch_size=1"])
    run(recipe, [f"output.dir={folders['auto']}"])
    launched(recipe, f"output.dir={folders['two']}", num_processes=2)
    wanted = measured(folders["single"])
    wanted_gradient = gradient(folders["single"], tiny_model_dir)
    assert sum(part.norm() ** 2 for part in wanted_gradient.values()) > 1e-3
    for key in ("auto", "two"):
        assert samples_of_steps(folders[key]) == samples_of_steps(folders["single"])
        assert measured(folders[key]) == pytest.approx(wanted, rel=RELATIVE_TOLERANCE), key
        for weight, part in gradient(folders[key], tiny_model_dir).items():
            whole = wanted_gradient[weight]
            error = (part - whole).norm() / whole.norm().clamp_min(1e-12)
            assert error < RELATIVE_TOLERANCE, (key, weight, error)


def sizes_of_passes(recipe: Path) -> list[int]:
    """Units of each pass of the first step."""
    plan = make_plan(resolve_with_origins(recipe), World())
    store = prepare_data(plan.recipe).train
    units = make_feed(store, plan.recipe.trainer).global_batch(0)
    assert all(isinstance(unit, StoredUnit) for unit in units)
    (passes,) = plan.pass_size.deal([unit.num_tokens for unit in units], 1)
    return [len(one) for one in passes]


def measured(folder: Path) -> dict[str, float]:
    """The losses of the step, of each of its samples, and of held-out rows after it."""
    step, evaluation = read_rows(folder / "metrics.jsonl")
    names = ("loss", "grad_norm", "num_tokens", "num_trained_tokens")
    found = {name: step[name] for name in names} | {"eval_loss": evaluation["eval_loss"]}
    (samples,) = read_rows(folder / "samples.jsonl")
    found |= dict(zip(samples["ids"], samples["losses"], strict=True))
    return found


def gradient(folder: Path, model: Path) -> dict[str, torch.Tensor]:
    before = load_file(model / "model.safetensors")
    after = load_file(folder / "final" / "model.safetensors")
    return {name: (before[name] - after[name]) / LEARNING_RATE for name in before}
