"""What a run was is read also where its recipe could not be started today."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm_start import framework

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def run(write_recipe, tmp_path) -> Path:
    recipe = write_recipe(adapter={"type": "lora", "r": 4}, **{"trainer.learning_rate": 1e-2})
    ended = framework("train", recipe)
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "run"


def make_old(run: Path, refused: str, **changes: dict[str, Any]) -> None:
    """Its recipe breaks a rule that a version before didn't have.

    Args:
        refused: key of which a start of it speaks.
    """
    resolved = run / "resolved.yaml"
    values = yaml.safe_load(resolved.read_text(encoding="utf-8"))
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    resolved.write_text(yaml.safe_dump(values), encoding="utf-8")
    checked = framework("check", resolved)
    assert checked.returncode == 2 and refused in checked.stderr


def test_a_run_that_breaks_a_later_rule_is_talked_to_merged_and_combined(run, tmp_path):
    # Its token exists, and it trains no embedding of it.
    make_old(run, "adapter.modules_to_save", tokenizer={"add_tokens": ["<|im_start|>"]})
    said = framework("chat", run, "--max-new-tokens", "4", input="Question 3: what?\n\n")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    merged = framework("merge", run, "--output", tmp_path / "merged")
    assert merged.returncode == 0, merged.stderr
    combined = framework("combine", run, run, "--output", tmp_path / "combined")
    assert combined.returncode == 0, combined.stderr


def test_a_run_that_breaks_a_later_rule_is_planned_again_reported_and_blamed(run):
    make_old(run, "checkpoint.keep_best", checkpoint={"keep_best": {}})
    said = framework("report", run)
    assert said.returncode == 0 and "can't be planned" not in said.stderr
    planned = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    assert planned["planned_memory"]["peak_bytes_per_device"] > 0
    blamed = framework("report", run, "--blame", "1")
    assert blamed.returncode == 0, blamed.stderr
    assert "train0:" in blamed.stdout


def test_what_the_recipe_of_a_run_takes_from_the_environment_can_be_allowed(write_recipe, tmp_path):
    rows = {"source": "./train.jsonl", "name": "${oc.env:ROWS}"}
    recipe = write_recipe(adapter={"type": "lora", "r": 4}, **{"data.train": [rows]})
    settings = {"env": {**os.environ, "ROWS": "cities"}}
    ended = framework("train", recipe, "--allow-env", "ROWS", **settings)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "run"
    for number, verb in enumerate((("chat", run), ("merge", run), ("combine", run, run))):
        output = () if verb[0] == "chat" else ("--output", tmp_path / str(number))
        refused = framework(*verb, *output, input="", **settings)
        assert refused.returncode == 2
        assert "allow it on the command line: --allow-env ROWS" in refused.stderr
        said = framework(*verb, *output, "--allow-env", "ROWS", input="", **settings)
        assert said.returncode == 0, said.stderr
