"""Whatever other programs' names lead to can be written in a recipe."""

from __future__ import annotations

import pytest

from framework.core.problems import UserError
from framework.recipe import other_names
from framework.recipe.resolve import resolve

VALUES = {
    "trainer.optimizer.beta1": 0.8,
    "trainer.optimizer.beta2": 0.9,
    "trainer.optimizer.epsilon": 1e-6,
    "evaluation.early_stopping.patience": 2,
    "adapter.r": 8,
    "adapter.lora_alpha": 8,
    "adapter.lora_dropout": 0.1,
    "adapter.target_modules": "all-linear",
    "data.split.eval": 0.1,
}


@pytest.mark.parametrize("key", sorted(set(other_names._KEYS.values())))
def test_every_key_that_is_named_is_one(write_recipe, key):
    section, _, rest = key.partition(".")
    types = {"adapter": "lora", "trainer.optimizer": "adamw"}
    overrides = [
        f"{name}.type={kind}" for name, kind in types.items() if key.startswith(f"{name}.")
    ]
    overrides.append(f"{key}={VALUES.get(key, 'x')}")
    try:
        resolve(write_recipe(), overrides)
    except UserError as error:
        assert "is not a key here" not in str(error)
    assert section and rest


@pytest.mark.parametrize("name", sorted(other_names._KEYS | other_names._ADVICE))
def test_a_name_of_another_program_is_no_key_of_a_recipe_itself(write_recipe, name):
    with pytest.raises(UserError, match=f"{name}: is not a key here; (write|leave|did)"):
        resolve(write_recipe(), [f"{name}=1"])
