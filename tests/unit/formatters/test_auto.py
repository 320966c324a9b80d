"""`format: auto` finds the format by the first row, says which and why, and keeps to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import framework
from framework.__main__ import main
from framework.core.problems import UserError
from framework.core.registries import registry
from framework.core.samples import RowError
from framework.data.prepared import prepare_data
from framework.formatters.auto import Auto
from framework.recipe.resolve import resolve, resolve_with_origins

USER = {"role": "user", "content": "Hi?"}
GOOD = {"role": "assistant", "content": "Hello."}
BAD = {"role": "assistant", "content": "No."}
HUMAN = {"from": "human", "value": "Hi?"}
DIALOGUE = "\n\nHuman: Hi?\n\nAssistant: Hello."
ROWS = {
    "alpaca": [{"instruction": "a", "input": "", "output": "b"}],
    "classification": [
        {"text": "a", "label": "spam"},
        {"text": "a", "label": 1},
        {"messages": [USER], "label": 2},
    ],
    "completion": [{"text": "a"}, {"text": "a", "url": "b", "timestamp": None}],
    "hh_rlhf": [{"chosen": DIALOGUE, "rejected": DIALOGUE + "!"}],
    "messages": [
        {"messages": [USER, GOOD]},
        {"messages": json.dumps([USER, GOOD]), "id": 3},
        {"messages": [USER, GOOD], "tools": []},
    ],
    "preference": [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "score_chosen": 1.0},
        {"conversations": [HUMAN], "chosen": HUMAN, "rejected": HUMAN},
        {"prompt": "a", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
    "pretokenized": [{"input_ids": [1], "labels": [-100], "attention_mask": [1]}],
    "prompt_completion": [
        {"prompt": "a", "completion": "b"},
        {"prompt": [USER], "completion": [GOOD]},
    ],
    "prompt_only": [{"prompt": "a", "answer": 3}, {"prompt": [USER]}],
    "regression": [{"text": "a", "score": 0.5}, {"messages": [USER], "score": 1}],
    "sharegpt": [{"conversations": [HUMAN], "system": "s"}],
    "stepwise": [{"prompt": "a", "completions": ["b"], "labels": [True]}],
    "unpaired_preference": [
        {"prompt": "a", "completion": "b", "label": False},
        {"messages": [USER, GOOD], "label": True},
    ],
}


@pytest.mark.parametrize(
    ("name", "row"), [(name, row) for name, rows in ROWS.items() for row in rows]
)
def test_each_format_is_found_by_its_columns(name, row):
    found = Auto().decide(row)
    assert found.name == name
    assert type(found.format) is registry("formatters").get(name)
    assert found.columns
    assert found.columns.keys() <= row.keys()


def test_every_format_can_be_found():
    assert {*ROWS, "auto"} == set(registry("formatters").names())


def test_the_reason_says_what_the_columns_hold_and_what_steps_back():
    found = Auto().decide({"prompt": "a", "chosen": [USER, GOOD], "rejected": "b"})
    assert found.reason == (
        "'prompt' holds text and 'chosen' holds messages and 'rejected' holds text; "
        "prompt_only would read only part of that"
    )


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"instruction": "a", "output": "b", "text": "c"}, ["alpaca", "completion"]),
        ({"messages": [USER, GOOD], "prompt": "a"}, ["messages", "prompt_only"]),
        (
            {"messages": [USER], "prompt": "a", "chosen": "b", "rejected": "c"},
            ["messages", "preference"],
        ),
        ({"text": "a", "label": 1, "score": 0.5}, ["classification", "regression"]),
    ],
)
def test_where_two_fit_both_are_named_with_the_line_to_write(row, names):
    with pytest.raises(RowError) as caught:
        Auto().decide(row)
    assert caught.value.what.startswith("2 formats fit: ")
    assert all(f"{name}, as '" in caught.value.what for name in names)
    assert caught.value.hint == f"write `format: {names[0]}` or `format: {names[1]}`"


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"q": "a", "a": "b"},
        {"messages": "hello"},
        {"messages": []},
        {"messages": [{"from": "human", "value": "a"}]},
        {"text": None},
        {"text": 3},
        {"instruction": "a", "output": None},
        {"input_ids": [1.5], "labels": [1]},
        {"chosen": "a", "rejected": "b"},
    ],
)
def test_where_none_fits_the_columns_are_named(row):
    with pytest.raises(RowError) as caught:
        Auto().decide(row)
    assert "no format knows a row" in caught.value.what
    assert all(column in caught.value.what for column in row)
    assert "columns: {ITS NAME: YOUR NAME}" in caught.value.hint


# ---- in a recipe


@pytest.fixture
def recipe_of(write_recipe, tmp_path):
    """Writes rows, and a recipe that reads them with `format: auto`."""

    def write(*rows, **dataset):
        path = write_recipe(
            **{"data.train": [{"source": "./train.jsonl", "format": "auto", **dataset}]}
        )
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["framework", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


ALPACA = ROWS["alpaca"][0]
FOUND = "auto finds alpaca, as 'instruction' holds text and 'output' holds text"


def test_check_prepare_and_preview_say_which_format_and_why(recipe_of, monkeypatch, capsys):
    recipe = recipe_of(ALPACA)
    code, out, err = command(monkeypatch, capsys, "check", recipe)
    assert (code or 0, out) == (0, f"{recipe}: good\n")
    assert f"data.train[0].format: {FOUND}" in err
    assert f"{recipe}:" in err

    code, out, err = command(monkeypatch, capsys, "prepare", recipe)
    assert not code, err
    assert f"train0: {FOUND}" in out
    code, out, err = command(monkeypatch, capsys, "preview", recipe)
    assert f"train0: {FOUND}" in err
    code, out, err = command(monkeypatch, capsys, "preview", recipe, "--json")
    assert json.loads(out)["found_formats"] == [f"train0: {FOUND}"]


def test_the_prepared_data_keeps_the_format_and_the_reason(recipe_of):
    (counts,) = prepare_data(resolve(recipe_of(ALPACA))).train.details["datasets"]
    assert counts["format"] == "alpaca"
    assert counts["format_reason"] in FOUND
    recipe = resolve(recipe_of(ALPACA), ["data.train.0.format=alpaca"])
    (counts,) = prepare_data(recipe).train.details["datasets"]
    assert (counts["format"], counts["format_reason"]) == ("alpaca", "")


def test_later_rows_are_held_to_the_first_ones_format(recipe_of):
    with pytest.raises(UserError, match=r"train.jsonl:2: has no column 'instruction'"):
        prepare_data(resolve(recipe_of(ALPACA, {"text": "a"})))


def test_columns_are_renamed_before_the_format_is_found(recipe_of):
    recipe = recipe_of({"q": "a", "a": "b"}, columns={"instruction": "q", "output": "a"})
    assert prepare_data(resolve(recipe)).train.num_samples == 1
    (note,) = resolve_with_origins(recipe).warnings
    assert note.what == FOUND


def test_the_first_row_of_the_slice_decides(recipe_of):
    recipe = recipe_of({"text": "a"}, ALPACA, rows="1:")
    (counts,) = prepare_data(resolve(recipe)).train.details["datasets"]
    assert (counts["format"], counts["num_rows"]) == ("alpaca", 1)


def test_check_refuses_what_fits_twice_or_not_at_all(recipe_of):
    both = {**ALPACA, "text": "c"}
    for row, what in ((both, "2 formats fit"), ({"q": "a"}, "no format knows a row")):
        with pytest.raises(UserError) as caught:
            resolve(recipe_of(row))
        (problem,) = caught.value.problems
        assert what in problem.what
        assert "train.jsonl:1: " in problem.what
        assert (problem.key, problem.file.endswith("recipe.yaml")) == ("data.train[0].format", True)


def test_check_refuses_a_found_format_that_the_trainer_does_not_learn_from(recipe_of):
    with pytest.raises(UserError) as caught:
        resolve(recipe_of({"messages": [USER, GOOD], "score": 0.5}))
    (problem,) = caught.value.problems
    assert problem.what.startswith("auto finds regression, as 'messages' holds messages")
    assert "makes scores; trainer `sft` learns from" in problem.what
    assert problem.hint.startswith(
        "write `format: messages`, or write `trainer: {type: regression}`"
    )
    trained = resolve(recipe_of({"text": "a"}), ["trainer.type=pretrain"])
    assert prepare_data(trained).train.num_samples == 1


def test_a_file_that_is_missing_or_broken_is_its_sources_fault_alone(recipe_of, tmp_path):
    recipe = recipe_of(ALPACA)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError) as caught:
        resolve(recipe)
    assert [problem.key for problem in caught.value.problems] == ["data.train[0].source.path"]
    (tmp_path / "train.jsonl").write_text("{\n")
    (note,) = resolve_with_origins(recipe).warnings
    assert "can't look at the first row yet" in note.what


def test_a_dataset_of_the_hub_is_left_for_later(write_recipe):
    recipe = write_recipe(**{"data.train": [{"source": "owner/rows", "format": "auto"}]})
    (note,) = resolve_with_origins(recipe).warnings
    assert (note.key, note.line > 0) == ("data.train[0].format", True)
    assert "can't look at the first row yet" in note.what


def test_test_rows_that_ask_nothing_are_refused(recipe_of, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "a"}\n')
    recipe = recipe_of(ALPACA)
    overrides = ["+data.test=[{source: " + str(tmp_path / "test.jsonl") + ", format: auto}]"]
    overrides += ["+evaluation.num_generations=1"]
    with pytest.raises(
        UserError, match=r"test.jsonl:1: a Document sample has no prompt and answer"
    ):
        prepare_data(resolve(recipe, overrides))


def test_check_with_auto_loads_no_heavy_library(recipe_of):
    code = (
        "import sys; from framework.recipe.resolve import resolve; resolve(sys.argv[1]); "
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe_of(ALPACA))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


FORMAT = '''
"""Rows of a cry -> documents."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from framework.core.samples import Document, Row, Sample

@dataclass(frozen=True, kw_only=True)
class Cry:
    """Reads `cry`."""
    produces: ClassVar[type[Sample]] = Document
    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        return {"cry": "a cry"} if "cry" in row else {}
    def __call__(self, row: Row) -> Document:
        return Document(text=row["cry"])
'''


def test_a_new_file_is_found_without_any_other_edit(tmp_path):
    shutil.copytree(Path(framework.__file__).parent, tmp_path / "framework")
    (tmp_path / "framework" / "formatters" / "cry.py").write_text(FORMAT)
    code = (
        "from framework.formatters.auto import Auto; found = Auto().decide({'cry': 'oh'}); "
        "print(found.name, '|', found.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert done.stdout.strip() == "cry | 'cry' holds a cry"


@pytest.mark.parametrize(
    ("name", "expected"), [("dpo_en_demo.json", "preference"), ("alpaca_en_demo.json", "alpaca")]
)
def test_real_files_are_recognised(name, expected):
    folder = os.environ.get("FRAMEWORK_TEST_DATA")
    if not folder:
        pytest.skip("FRAMEWORK_TEST_DATA names no folder of real data sets")
    rows = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    assert {Auto().decide(row).name for row in rows} == {expected}
