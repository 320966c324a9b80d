"""The code of docs/adding-a-component.md does what the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import framework

ROOT = Path(framework.__file__).parent.parent
PAGE = (ROOT / "docs" / "adding-a-component.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
MAX_LINES = 40

RECIPE = """\
model: {source: owner/model}
data:
  train:
    - source: owner/rows
      format: FORMAT
output: {dir: runs/x}
"""
READ_A_ROW = """
import sys
from framework.recipe.resolve import resolve
format = resolve(sys.argv[1]).data.train[0].format
row = {"review": "Great", "stars": 5, "lines": ["Hello?", "Yes."]}
print([(message.role, message.content) for message in format(row).messages])
"""


def test_the_page_has_every_file_that_this_test_needs():
    assert sorted(BLOCKS) == [
        "framework/formatters/review.py",
        "framework/trainers/focal.py",
        "framework_dialogue.py",
        "pyproject.toml",
    ]
    for name, code in BLOCKS.items():
        if name.endswith(".py"):
            assert len(code.splitlines()) < MAX_LINES


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the packages in `folder` before all others."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        timeout=120,
    )


def write_recipe(folder: Path, written: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("FORMAT", written), encoding="utf-8")
    return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The package's tree with the page's files in it."""
    shutil.copytree(ROOT / "framework", tmp_path / "framework")
    for name in ("framework/formatters/review.py", "framework/trainers/focal.py"):
        (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    return tmp_path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder into which pip installed the page's package."""
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    for name in ("pyproject.toml", "framework_dialogue.py"):
        (project / name).write_text(BLOCKS[name], encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(site), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return site


def test_a_file_in_the_tree_is_a_format_without_any_other_edit(tree):
    listed = run(tree, "-m", "framework", "list", "formatters", "--json")
    entries = {entry["name"]: entry for entry in json.loads(listed.stdout)["formatters"]}
    assert entries["review"]["summary"].startswith("Reads `review` and `stars`")
    assert entries["review"]["origin"] == "built-in"

    recipe = write_recipe(tree, '{type: review, question: "Good?"}')
    said = run(tree, "-c", READ_A_ROW, recipe)
    assert said.stdout.strip() == "[('user', 'Great\\nGood?'), ('assistant', '5')]", said.stderr

    explained = run(tree, "-m", "framework", "explain", recipe, "data.train[0].format.question")
    assert "What is asked about every review." in explained.stdout

    schema = json.loads(run(tree, "-m", "framework", "schema").stdout)
    assert "question" in schema["$defs"]["formatters.review"]["properties"]

    wrong = run(tree, "-m", "framework", "check", write_recipe(tree, "{type: review, queston: x}"))
    assert wrong.returncode == 2
    assert "queston: is not a key here; did you mean 'question'?" in wrong.stderr

    found = run(tree, "-c", READ_A_ROW.replace("5, ", "5}#"), write_recipe(tree, "auto"))
    assert found.stdout.strip() == "[('user', 'Great\\nHow many stars?'), ('assistant', '5')]"


@pytest.mark.slow
def test_a_file_in_the_tree_is_a_trainer_without_any_other_edit(tree, tiny_model_dir):
    row = {"messages": [{"role": r, "content": r} for r in ("user", "assistant")]}
    (tree / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    recipe = tree / "recipe.yaml"
    recipe.write_text(
        f"model: {{source: {tiny_model_dir}}}\n"
        "data: {train: [{source: ./rows.jsonl}], max_length: 64}\n"
        "trainer: {type: focal, gamma: 1, max_steps: 2, micro_batch_size: 1}\n"
        "output: {dir: run}\n",
        encoding="utf-8",
    )
    done = run(tree, "-m", "framework.train", str(recipe))
    assert done.returncode == 0, done.stderr
    lines = (tree / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert 0 < first["known"] < second["known"] < 1


def test_an_installed_package_brings_a_format(site):
    listed = run(site, "-m", "framework", "list", "formatters", "--json")
    entries = {entry["name"]: entry for entry in json.loads(listed.stdout)["formatters"]}
    assert entries["dialogue"]["origin"] == "framework-dialogue"

    said = run(site, "-c", READ_A_ROW, write_recipe(site, "dialogue"))
    assert said.stdout.strip() == "[('user', 'Hello?'), ('assistant', 'Yes.')]", said.stderr

    misspelt = run(site, "-m", "framework", "check", write_recipe(site, "dialog"))
    assert misspelt.returncode == 2
    assert "did you mean 'dialogue'?" in misspelt.stderr

    schema = json.loads(run(site, "-m", "framework", "schema").stdout)
    assert "dialogue" in schema["$comment"]
    assert schema["$defs"]["formatters.dialogue"]["properties"]["type"] == {"const": "dialogue"}


def test_a_package_that_takes_a_built_in_name_is_an_error(site):
    points = next(site.glob("*.dist-info")) / "entry_points.txt"
    text = points.read_text(encoding="utf-8")
    points.write_text(text.replace("dialogue =", "messages ="), encoding="utf-8")
    ended = run(site, "-m", "framework", "check", write_recipe(site, "messages"))
    assert ended.returncode == 2
    assert "the name 'messages' is registered by" in ended.stderr
    assert "Traceback" not in ended.stderr
