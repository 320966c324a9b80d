"""Held-out rows that are trained, and rows that are trained twice, are told of."""

from __future__ import annotations

import pytest

from framework.recipe.resolve import notes_of, resolve

TRAIN = {"source": "./train.jsonl"}
FOLDER = {"source": {"type": "jsonl", "path": "."}}


def notes(write_recipe, train, **others):
    recipe = write_recipe(data={"train": train, **others})
    return [str(note) for note in notes_of(resolve(recipe))]


@pytest.mark.parametrize("part", ["eval", "test"])
def test_held_out_rows_that_are_trained_are_noted(write_recipe, part):
    (note,) = notes(write_recipe, [TRAIN], **{part: [TRAIN | {"rows": ":4"}]})
    assert note.startswith(
        f"data.{part}[0].source: rows of it are trained too, by data.train[0] (train.jsonl)"
    )


def test_a_file_is_found_in_the_folder_of_another_dataset(write_recipe):
    (note,) = notes(write_recipe, [FOLDER], eval=[{"source": "./eval.jsonl"}])
    assert "by data.train[0] (eval.jsonl)" in note


def test_other_rows_are_not_spoken_of(write_recipe):
    assert notes(write_recipe, [TRAIN], eval=[{"source": "./eval.jsonl"}]) == []


@pytest.mark.parametrize(
    ("train", "held_out", "meet"),
    [
        (":12", "12:", False),
        (":13", "12:", True),
        (":75%", "75%:", False),
        (":75%", "50%:", True),
        ("0:75%", ":10%", True),
        (":-4", "-4:", False),
    ],
)
def test_slices_that_do_not_meet_for_certain_are_not_spoken_of(write_recipe, train, held_out, meet):
    found = notes(write_recipe, [TRAIN | {"rows": train}], eval=[TRAIN | {"rows": held_out}])
    assert len(found) == meet


def test_rows_that_are_trained_twice_are_noted(write_recipe):
    (note,) = notes(write_recipe, [TRAIN, TRAIN])
    assert note.startswith("data.train[1].source: rows of it stand in data.train[0] too")


@pytest.mark.parametrize(
    "changed", [{"weight": 1.0}, {"system_prompt": "Be brief."}, {"rows": "8:"}]
)
def test_rows_that_are_meant_twice_are_not_spoken_of(write_recipe, changed):
    first = TRAIN | ({"weight": 1.0} if "weight" in changed else {})
    first |= {"rows": ":8"} if "rows" in changed else {}
    assert notes(write_recipe, [first, TRAIN | changed]) == []
