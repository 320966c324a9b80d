"""Every shipped recipe trains a tiny model, and every component has one."""

from __future__ import annotations

import json
import os

import pytest
from shipped_recipes import DEFAULTS, SLOTS, ShippedRecipe, shipped_recipes

from framework.core.problems import UserError
from framework.core.registries import registry
from framework.train import run

RECIPES = shipped_recipes()
NUM_STEPS = 2


@pytest.mark.parametrize("kind", SLOTS)
def test_every_component_has_a_recipe(kind):
    used = {recipe.component(*SLOTS[kind]) or DEFAULTS.get(kind) for recipe in RECIPES}
    assert set(registry(kind).names()) <= used


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_recipe_trains_a_tiny_model(
    recipe: ShippedRecipe, tiny_model_dir, tiny_judge_dir, tmp_path
):
    output = tmp_path / "run"
    overrides = recipe.overrides(tiny_model_dir, output, NUM_STEPS, judge=tiny_judge_dir)
    if recipe.needs:
        with pytest.raises(UserError) as caught:
            run(recipe.path, overrides)
        assert recipe.needs in str(caught.value)
        return
    result = run(recipe.path, overrides)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == result.num_steps >= 1
    assert all(loss == loss for loss in losses)
    assert (output / "final").is_dir()
    # What is started from here later is no process of this run.
    assert "LOCAL_RANK" not in os.environ
