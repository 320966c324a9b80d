"""Every value says where it comes from."""

from __future__ import annotations

import pytest

from framework.core.problems import UserError
from framework.recipe.dump import recipe_values
from framework.recipe.explain import explain, explain_all
from framework.recipe.resolve import resolve, resolve_with_origins

RECIPE = """\
model:
  source: owner/model
data:
  train:
    - source: owner/rows
adapter: lora
trainer:
  learning_rate: 1e-3
  optimizer: {type: sgd, momentum: 0.5}
output:
  dir: runs/${trainer.seed}
"""


@pytest.fixture
def resolved(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return resolve_with_origins(path, ["trainer.max_steps=5"])


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("trainer.learning_rate", "0.001", "recipe.yaml:8:18"),
        ("trainer.max_steps", "5", "override 1 on the command line"),
        ("trainer.seed", "42", "default"),
        ("trainer.type", "sft", "default"),
        ("output.dir", "runs/42", "recipe.yaml:11:8, from runs/${trainer.seed}"),
        ("model.source.repo", "owner/model", "recipe.yaml:2:11"),
        ("data.train[0].source.repo", "owner/rows", "recipe.yaml:5:15"),
        ("adapter.type", "lora", "recipe.yaml:6:10"),
        ("adapter.r", "16", "default"),
        ("trainer.optimizer.momentum", "0.5", "recipe.yaml:9:36"),
        ("trainer.optimizer.nesterov", "false", "default"),
    ],
)
def test_value_and_origin_are_those_that_were_written(resolved, key, value, origin):
    found = explain(resolved, key)
    assert (found.value, found.origin.rsplit("/", 1)[-1]) == (value, origin.rsplit("/", 1)[-1])
    assert found.documentation


def test_every_key_can_be_explained_and_is_documented(resolved):
    found = explain_all(resolved)
    assert len(found) > 60
    undocumented = [one.key for one in found if not one.documentation]
    assert undocumented == []


def test_an_unknown_key_names_the_nearest(resolved):
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        explain(resolved, "trainer.learning_rat")


def test_what_comes_from_the_environment_is_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_SECRET", "hunter2")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("runs/${trainer.seed}", "${oc.env:RUN_SECRET}"))
    resolved = resolve_with_origins(path, (), ["RUN_SECRET"])
    assert resolved.recipe.output.dir == "hunter2"
    assert "hunter2" not in str(explain_all(resolved))
    assert "hunter2" not in str(recipe_values(resolved))


def test_the_dumped_values_resolve_to_the_same_recipe(resolved, tmp_path):
    from omegaconf import OmegaConf

    path = tmp_path / "resolved.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(recipe_values(resolved))))
    assert resolve(path) == resolved.recipe
