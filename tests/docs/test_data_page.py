"""The recipes on the page about mixing, splits and over-length rows are good ones."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from conftest import conversation, write_rows

import framework
from framework.core.registries import registry
from framework.recipe.resolve import resolve

PAGE = Path(framework.__file__).parents[1] / "docs" / "data.md"


def test_its_recipes_are_good(write_recipe, tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    mixing, curriculum, split = (
        yaml.safe_load(block)["data"] for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    for name in ("chats", "code", "facts", "tickets"):
        write_rows(tmp_path / f"{name}.jsonl", [conversation(0)])
    unweighted = [
        {key: value for key, value in one.items() if key != "weight"} for one in mixing["train"]
    ]
    for data in (mixing, {**curriculum, "train": unweighted}, split):
        resolve(write_recipe(data=data, trainer={"max_steps": None}))


def test_it_names_every_mixture_and_policy():
    text = PAGE.read_text(encoding="utf-8")
    names = [*registry("mixtures").names(), *registry("over_length").names()]
    assert len(names) >= 9
    assert [name for name in names if not re.search(rf"`(\{{type: )?{name}\b", text)] == []
