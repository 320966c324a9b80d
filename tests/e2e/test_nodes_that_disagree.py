"""Nodes that don't have in common what a run needs say so, once each, and end before training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import conversation, write_rows
from forks import nodes_that_said, read_groups
from two_nodes import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
SCRIPT = Path(__file__).parents[1] / "disagreeing.py"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Mapping[str, Any]:
    """What differs -> exit codes of the processes and the lines that each has said."""
    folder = tmp_path_factory.mktemp("disagreeing")
    rows = [conversation(number) for number in range(6)]
    write_rows(folder / "rows.jsonl", rows)
    write_rows(folder / "other.jsonl", rows[1:])
    usual = {
        "model": {"source": str(tiny_model_dir)},
        "data": {"train": [{"source": "./rows.jsonl"}], "max_length": 128},
        "trainer": {"global_batch_size": 3, "max_steps": 1},
        "output": {"dir": "run"},
    }
    other_data = {**usual, "data": {"train": [{"source": "./other.jsonl"}], "max_length": 128}}
    other_rate = {**usual, "trainer": {**usual["trainer"], "learning_rate": 3e-3}}
    recipes = {
        "recipe": usual,
        "recipe.other": other_rate,
        "data": usual,
        "data.other": other_data,
        "folder": usual,
        "interface": usual,
        "versions": usual,
        "batch": {
            **usual,
            "trainer": {"global_batch_size": 4, "micro_batch_size": 1, "max_steps": 1},
        },
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, timeout=500)
    return read_groups(folder)


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        (
            "recipe",
            2,
            "trainer.learning_rate: is 0.003 on node-b (rank 1), but 0.0002 on node-a (rank 0); "
            "start every node with the same recipe",
        ),
        ("data", 2, "data.train: is content "),
        ("folder", 2, "a folder of that node alone, on node-b (rank 1), but "),
        ("versions", 2, "torch: is 0.1 on node-b (rank 1), but 2."),
        ("batch", 2, "trainer.global_batch_size: 4 can't be shared by 3 processes"),
    ],
)
def test_what_differs_is_told_once_on_each_node(ended, how, code, says):
    assert ended[how]["codes"] == [code] * 3, ended[how]
    assert nodes_that_said(ended[how]["said"], says) == [0, 1]
    assert nodes_that_said(ended[how]["said"], "Traceback") == []


def test_what_is_wrong_on_one_node_is_told_there_and_ends_the_other(ended):
    assert ended["interface"]["codes"] == [2, 2, 2], ended["interface"]
    said = ended["interface"]["said"]
    wrong = "GLOO_SOCKET_IFNAME=wrong0 names no network interface of node-b"
    assert nodes_that_said(said, wrong) == [0, 1]
    assert said[0][0].startswith("rank ")
    assert " on node-b, before the first step, ended: " in said[0][0]


def test_no_more_than_that_is_said(ended):
    assert {how: max(map(len, one["said"])) for how, one in ended.items()} == dict.fromkeys(
        ended, 1
    )
