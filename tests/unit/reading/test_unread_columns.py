"""Columns of rows that nothing reads are named."""

from __future__ import annotations

import json

import pytest

from framework.data.prepared import prepare_data
from framework.formatters.messages import Messages
from framework.reading.unread_columns import ColumnWatch
from framework.recipe.resolve import resolve
from framework.reports.preparation_lines import data_lines


@pytest.fixture
def add_columns(tmp_path):
    """Adds columns to every row of `train.jsonl`."""

    def add(name="train.jsonl", **columns):
        path = tmp_path / name
        rows = [json.loads(line) | columns for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return add


def notes(recipe, *overrides):
    data = prepare_data(resolve(recipe, overrides))
    found = data.train.details["datasets"][0]["unread_columns"]
    return found, [line for line in data_lines(data) if "nothing reads" in line]


def test_a_column_that_nothing_reads_is_named_with_what_may_be_meant(write_recipe, add_columns):
    recipe = write_recipe()
    add_columns(difficulty=3, tool=[], empty=None)
    found, lines = notes(recipe)
    assert found == {"difficulty": None, "tool": "tools"}
    assert lines == [
        "train: note: train0: nothing reads the columns 'tool' (did you mean 'tools'?), "
        "'difficulty'"
    ]


def test_rows_all_of_which_is_read_are_not_spoken_of(write_recipe, add_columns):
    recipe = write_recipe()
    add_columns(tools=[], importance=1.0)
    assert notes(recipe, "data.train.0.loss_weight_column=importance") == ({}, [])


def test_a_renamed_column_was_seen_unless_its_new_name_seems_mistaken(write_recipe, add_columns):
    recipe = write_recipe()
    add_columns(images=[1], functions=[])
    columns = "{unread: images, tool: functions}"
    found, _ = notes(recipe, f"data.train.0.columns={columns}")
    assert found == {"tool": "tools"}


def test_a_row_that_does_not_fit_hides_nothing(write_recipe, add_columns, tmp_path):
    recipe = write_recipe()
    add_columns(difficulty=3)
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write('{"talk": [], "difficulty": 1}\n')
    found, _ = notes(recipe, "data.on_bad_row=skip")
    assert found == {"difficulty": None}


def test_prompts_keep_every_column_for_rewards(write_online):
    found, lines = notes(write_online("grpo"))
    assert (found, lines) == ({}, [])


def test_a_format_of_ones_own_that_goes_through_the_row_reads_all_of_it(write_recipe):
    dataset = resolve(write_recipe()).data.train[0]
    row = {"messages": [{"role": "assistant", "content": "Yes."}], "first": 1, "second": 2}
    for whole in (dict, lambda one: {**one}, lambda one: one | {}, lambda one: one.copy()):
        watch = ColumnWatch(dataset)
        watch.read(row, lambda one, whole=whole: Messages()(whole(one)))
        assert watch.unread() == {}
