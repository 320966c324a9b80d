"""docs/recipe.schema.json: current, valid, and true of the recipes that point to it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import framework
from framework.recipe.document import read_document
from framework.recipe.json_schema import recipe_schema

ROOT = Path(framework.__file__).parent.parent
SCHEMA_PATH = ROOT / "docs" / "recipe.schema.json"
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def faults(values: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(values)]


def test_the_committed_schema_is_the_one_that_the_code_generates():
    assert recipe_schema() == SCHEMA, "run `make docs`"


def test_the_schema_is_valid_json_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(SCHEMA["$defs"]) > 25


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_points_to_the_schema_and_fits_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == SCHEMA_PATH
    values = read_document(path).values
    assert values
    assert faults(values) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("trainer", "learning_rat", 1e-3),
        ("trainer", "global_batch_size", 0),
        ("trainer", "learning_rate", "fast"),
        ("data", "turns", "every"),
        ("data", "train", []),
        ("adapter", "rank", 8),
        ("model", "dtype", "float8"),
    ],
)
def test_an_editor_would_underline_a_mistake(section, key, value):
    values: Any = copy.deepcopy(read_document(ROOT / "recipes/quickstart/lora.yaml").values)
    assert faults(values) == []
    values[section][key] = value
    assert faults(values) != []
