"""Cleaners in a whole preparation: what they do is done, counted and listed."""

from __future__ import annotations

import json

import pytest
from conftest import conversation, read_rows, write_rows

from framework.core.problems import UserError
from framework.data.prepared import prepare_data
from framework.recipe.resolve import resolve

LEAKED = (
    "Please write down in a few words what the ship carried when it left the harbour of Bergen "
    "in the spring of that year and who had paid for it"
)


def talk(question, answer="It is so."):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def prepared(recipe, *overrides):
    return prepare_data(resolve(recipe, overrides)).train


def test_what_cleaners_change_and_remove_is_counted_and_listed(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"cleaners": ["control_characters", {"type": "exact_duplicates"}, "personal_data"]}
    )
    rows = [talk("Who?\x00"), talk("who?"), talk("Where?", "Ask ada@lovelace.org")]
    write_rows(tmp_path / "train.jsonl", rows)
    store = prepared(recipe)
    assert store.num_samples == 2
    numbers = [
        (one["cleaner"], one["num_change"], one["num_drop"]) for one in store.details["cleaners"]
    ]
    assert numbers == [
        ("control_characters", 1, 0),
        ("exact_duplicates", 0, 1),
        ("personal_data", 1, 0),
    ]
    (dropped,) = read_rows(store.folder / "cleaner-2-exact_duplicates.jsonl")
    assert (dropped["row"], dropped["like"]) == (2, "train0:1")
    (listed,) = read_rows(store.folder / "cleaner-3-personal_data.jsonl")
    assert listed["excerpts"] == [
        {
            "where": "messages[1].content",
            "before": "Ask ad************",
            "after": "Ask <EMAIL_ADDRESS>",
        }
    ]


def test_a_dry_run_lists_the_same_and_changes_nothing(write_recipe, tmp_path):
    recipe = write_recipe(data={"cleaners": ["exact_duplicates"], "dry_run": True})
    write_rows(tmp_path / "train.jsonl", [talk("Who?"), talk("who?")])
    store = prepared(recipe)
    assert store.num_samples == 2
    assert len(read_rows(store.folder / "cleaner-1-exact_duplicates.jsonl")) == 1


def test_held_out_rows_are_left_as_they_are(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"cleaners": ["exact_duplicates"], "eval": [{"source": "./eval.jsonl"}]}
    )
    write_rows(tmp_path / "eval.jsonl", [conversation(1), conversation(1)])
    assert prepare_data(resolve(recipe, ())).eval.num_samples == 2


def test_a_training_row_that_repeats_an_eval_row_ends_the_preparation(write_recipe, tmp_path):
    recipe = write_recipe(
        data={
            "cleaners": [{"type": "contamination", "similarity": None}],
            "eval": [{"source": "./eval.jsonl"}],
        }
    )
    write_rows(tmp_path / "train.jsonl", [conversation(0), talk(f"Look: {LEAKED}!", "Fish.")])
    write_rows(tmp_path / "eval.jsonl", [conversation(1), conversation(2), talk(LEAKED)])
    with pytest.raises(UserError) as caught:
        prepared(recipe)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "train.jsonl"), 2)
    assert problem.what == (
        f"holds 100% of the runs of 13 words of row eval0:3 at {tmp_path / 'eval.jsonl'}:3"
    )
    assert "action: drop" in problem.hint
    dropped = prepared(recipe, "data.cleaners=[{type: contamination, action: drop}]")
    assert dropped.num_samples == 1


@pytest.mark.parametrize(
    ("cleaner", "what"),
    [
        ("{type: filter, keep: num_wrds > 3}", "did you mean 'num_words'?"),
        ("{type: language, keep: [eng]}", "'eng' is not a known language; did you mean 'en'?"),
        ("{type: personal_data, phone_regions: [de]}", "'de' is no region; did you mean 'DE'?"),
        ("{type: personal_data, entities: [EMAIL]}", "EMAIL"),
        ("length", "has no bound"),
        ("{type: length, min_words: 9, max_words: 3}", "9 is above max_words, 3"),
        ("contamination", "`data.eval` and `data.test`, which are empty"),
        ("{type: near_duplicates, threshold: 0.1}", "must be at least 0.5"),
    ],
)
def test_a_wrong_cleaner_is_a_problem_of_the_recipe(write_recipe, cleaner, what):
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(), [f"data.cleaners=[{cleaner}]"])
    assert what in str(caught.value)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(write_recipe, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    gone = {"rensa", "ftfy", "py3langid", "presidio_analyzer"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else find_spec(name)
    )
    cleaners = "[near_duplicates, encoding, personal_data, {type: language, keep: [en]}]"
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(), [f"data.cleaners={cleaners}"])
    assert len(caught.value.problems) == 4
    assert {one.hint for one in caught.value.problems} == {"pip install 'framework[cleaning]'"}


def test_the_list_of_findings_is_json_lines(write_recipe, tmp_path):
    recipe = write_recipe(data={"cleaners": [{"type": "length", "max_words": 3}], "dry_run": True})
    store = prepared(recipe)
    lines = (store.folder / "cleaner-1-length.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 16
