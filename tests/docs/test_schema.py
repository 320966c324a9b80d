"""framework/schemas: current, valid, and true of the files that point to them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import warm_start
import yaml

import framework
from framework.cli.schema import KINDS, schema_text, written_path
from framework.planning.devices import TABLE
from framework.recipe.document import read_document

ROOT = Path(framework.__file__).parent.parent
SCHEMA_PATH = written_path("recipe")
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def committed(kind: str) -> dict[str, Any]:
    return json.loads(written_path(kind).read_text(encoding="utf-8"))


SCHEMA = committed("recipe")


def faults(values: Any, schema: dict[str, Any] = SCHEMA) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(values)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_the_one_that_the_code_generates(kind):
    jsonschema.Draft202012Validator.check_schema(committed(kind))
    assert schema_text(kind) == written_path(kind).read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize("kind", KINDS)
def test_the_verb_prints_the_committed_schema_and_imports_no_component_for_it(kind):
    code = (
        "import sys, atexit; from framework.__main__ import main\n"
        "atexit.register(lambda: print('framework.recipe' in sys.modules, file=sys.stderr))\n"
        f"sys.argv[1:] = ['schema', {kind!r}]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == written_path(kind).read_text(encoding="utf-8")
    assert done.stderr == "False\n"


def test_every_component_has_a_part_of_the_schema():
    assert len(SCHEMA["$defs"]) > 25


def test_the_table_of_devices_points_to_its_schema_and_fits_it():
    first = TABLE.read_text(encoding="utf-8").splitlines()[0]
    pointed = TABLE.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert pointed.resolve() == written_path("devices")
    values = read_document(TABLE).values
    assert len(values) > 10
    assert faults(values, committed("devices")) == []


def test_the_cluster_file_of_the_docs_fits_its_schema():
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    (text,) = (one for one in page.split("```yaml\n")[1:] if one.startswith("num_nodes:"))
    values = yaml.safe_load(text.partition("```")[0])
    assert len(values) > 5
    assert faults(values, committed("cluster")) == []


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("kind", "text", "command", "said"),
    [
        (
            "cluster",
            "num_nodes: 1\nnum_node: 3\n",
            ["submit", "slurm", "RECIPE", "--dry-run", "--cluster", "FILE"],
            "FILE:2:1: num_node: is not a key here; did you mean 'num_nodes'?",
        ),
        (
            "cluster",
            "submitters:\n  - {type: slurm, partitio: gpu}\n",
            ["submit", "slurm", "RECIPE", "--dry-run", "--cluster", "FILE"],
            "FILE:2:19: submitters[0].partitio: is not a key here; did you mean 'partition'?",
        ),
        (
            "sweep",
            "runs: []\n",
            ["submit", "slurm", "RECIPE", "--dry-run", "--sweep", "FILE"],
            "FILE:1:7: runs: must not be empty",
        ),
        (
            "devices",
            "X:\n  memory_gib: 8\n  peak_tflop: {float32: 1}\n",
            ["plan", "RECIPE", "--devices", "X", "--device-table", "FILE"],
            "FILE:3:3: X.peak_tflop: is not a key here; did you mean 'peak_tflops'?",
        ),
    ],
    ids=["cluster", "cluster's submitter", "sweep", "devices"],
)
def test_a_mistake_fails_by_the_schema_and_by_the_command(
    kind, text, command, said, write_recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.yaml"
    file.write_text(text, encoding="utf-8")
    assert faults(yaml.safe_load(text), committed(kind)) != []
    places = {"RECIPE": write_recipe(), "FILE": file}
    done = warm_start.framework(*(places.get(one, one) for one in command))
    assert done.returncode == 2
    assert said.replace("FILE", str(file)) in done.stderr


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
