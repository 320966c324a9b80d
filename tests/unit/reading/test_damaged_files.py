"""Whatever a data file holds: an error with its place, or rows that are all accounted for."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_files import NUM_ROWS, DamagedFile, damaged_files
from warm_start import FRAMEWORK

from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.data.store import Store
from framework.recipe.resolve import resolve

pytestmark = pytest.mark.usefixtures("warm")

FILES = {file.name: file for file in damaged_files(seed=7)}
IN_PROCESSES = (
    "half a line.jsonl",
    "cut 0.jsonl.gz",
    "stray quote.csv",
    "not utf-8.parquet",
    "noise.arrow",
    "byte order mark.tsv",
)


@pytest.fixture(scope="module")
def recipe_file(tiny_model_dir, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("damaged") / "recipe.yaml"
    path.write_text(
        f"model: {{source: {tiny_model_dir}}}\n"
        "data: {train: [{source: ./none.jsonl}], max_length: 256}\n"
        "trainer: {learning_rate: 1e-3}\n"
        f"output: {{dir: {path.parent / 'run'}}}\n"
    )
    return path


def overrides(file: DamagedFile, path: Path, on_bad_row: str) -> list[str]:
    dataset = json.dumps({"source": str(path), "format": file.format})
    method = "pretrain" if file.format == "completion" else "sft"
    return [f"data.train=[{dataset}]", f"data.on_bad_row={on_bad_row}", f"trainer.type={method}"]


Prepared = Callable[[DamagedFile, str], Store]


@pytest.fixture(scope="module")
def prepared(recipe_file) -> Prepared:
    """The store of a file, made as `framework prepare` makes it."""

    def make(file: DamagedFile, on_bad_row: str) -> Store:
        path = written(recipe_file.parent, file)
        recipe = resolve(recipe_file, overrides(file, path, on_bad_row))
        return prepare_data(recipe).train

    return make


def written(folder: Path, file: DamagedFile) -> Path:
    path = folder / file.name
    path.write_bytes(file.content)
    return path


def assert_all_rows_are_accounted_for(file: DamagedFile, details: dict, path: str) -> None:
    (counts,) = details["datasets"]
    assert counts["num_rows"] == file.num_good + len(file.broken)
    assert counts["num_samples"] == file.num_good
    assert counts["num_skipped_rows"] == len(file.broken)
    listed = [
        re.match(rf"{re.escape(path)}:(\d+):[\d: ]*(.*)", row) for row in counts["skipped_rows"]
    ]
    assert tuple(int(found[1]) for found in listed if found) == file.broken
    assert all(found and found[2] for found in listed), "each has its reason"


def test_there_are_more_than_200_files_of_every_kind():
    assert len(FILES) == 276
    assert {name.split(".", 1)[1] for name in FILES} == {
        *("jsonl", "ndjson", "jsonl.gz", "json", "csv", "tsv", "txt", "parquet", "arrow")
    }
    assert {file.fatal for file in FILES.values()} == {True, False}
    assert any(not file.fatal and not file.broken for file in FILES.values())
    assert all(file.fatal or file.num_good for file in FILES.values())


def test_another_seed_damages_other_places():
    other = {file.name: file for file in damaged_files(seed=8)}
    assert other.keys() == FILES.keys()
    assert sum(file.content != other[name].content for name, file in FILES.items()) > 200


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_ends_in_an_error_with_file_and_row(prepared, recipe_file, name):
    file = FILES[name]
    if not file.fatal and not file.broken:
        assert prepared(file, "error").num_samples == NUM_ROWS
        return
    with pytest.raises(UserError) as caught:
        prepared(file, "error")
    assert caught.value.exit_code == 2
    problems = caught.value.problems
    placed = [problem for problem in problems if "rows in all" not in problem.what]
    assert {problem.file for problem in placed} == {str(recipe_file.parent / name)}
    if not file.fatal:
        assert placed[0].line == file.broken[0]
        assert {problem.line for problem in placed} <= set(file.broken)
        assert sum(map(num_rows_of, placed)) == len(file.broken), problems
    assert all(len(str(problem)) < 1000 for problem in problems), "messages stay readable"


def num_rows_of(problem) -> int:
    """Rows that a problem is about: the one it names, and those that have the same."""
    return num_rows_told(problem.what)


def num_rows_told(text: str) -> int:
    """The same of a problem's text."""
    more = re.search(r"\(the same in ([\d,]+) more rows?\)", text)
    return 1 + (int(more[1].replace(",", "")) if more else 0)


@pytest.mark.parametrize("name", FILES)
def test_with_skip_every_row_is_trained_or_listed_or_the_file_is_an_error(
    prepared, recipe_file, name
):
    file, path = FILES[name], str(recipe_file.parent / name)
    if file.fatal:
        with pytest.raises(UserError) as caught:
            prepared(file, "skip")
        (problem,) = caught.value.problems
        assert problem.file == path
        return
    store = prepared(file, "skip")
    assert_all_rows_are_accounted_for(file, store.details, path)
    trained = {int(store.sample_id(at).split(":")[1]) for at in range(store.num_samples)}
    assert len(trained) == file.num_good
    assert not trained & set(file.broken)


def test_the_command_prints_which_rows_were_skipped(recipe_file):
    file = FILES["half a line.jsonl"]
    path = written(recipe_file.parent, file)
    command = [*FRAMEWORK, "prepare", str(recipe_file)]
    result = subprocess.run(
        [*command, *overrides(file, path, "skip")], capture_output=True, text=True, check=True
    )
    assert f"train0: 2 of {NUM_ROWS} rows skipped:" in result.stdout
    for line in file.broken:
        assert f"  {path}:{line}:" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_PROCESSES)
def test_the_command_says_so_without_a_traceback(recipe_file, name):
    file = FILES[name]
    path = written(recipe_file.parent, file)
    expected = {"error": 2 if file.fatal or file.broken else 0, "skip": 2 if file.fatal else 0}
    for on_bad_row, code in expected.items():
        command = [*FRAMEWORK, "prepare", str(recipe_file), "--json"]
        result = subprocess.run(
            [*command, *overrides(file, path, on_bad_row)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        if code:
            assert f"{path}:{file.broken[0] if file.broken else ''}" in result.stderr
            told = [line for line in result.stderr.splitlines() if line.startswith(str(path))]
            assert file.fatal or sum(map(num_rows_told, told)) == len(file.broken), result.stderr
        else:
            assert_all_rows_are_accounted_for(file, json.loads(result.stdout)["train"], str(path))
