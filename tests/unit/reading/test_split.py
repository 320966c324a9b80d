"""A split puts every row on one side, in the asked parts, and like rows together."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from conftest import conversation, write_rows
from hypothesis import given
from hypothesis import strategies as st

from framework.core.problems import UserError
from framework.data.prepare import named_datasets, read_test_samples
from framework.data.prepared import prepare_data
from framework.data_sources.jsonl import Jsonl
from framework.formatters.messages import Messages
from framework.reading.split import SplitSource, normalised
from framework.recipe.resolve import resolve
from framework.recipe.schema import Dataset, Split
from framework.reports.preparation_lines import data_lines

SIDES = ("train", "eval", "test")


def sides(path, rows: list[dict], dataset=None, **split) -> dict[str, list[int]]:
    """Side -> the numbers of its rows."""
    write_rows(path, rows)
    settings = {"source": Jsonl(path=str(path)), "format": Messages(), **(dataset or {})}
    found = {}
    for side in SIDES:
        source = SplitSource(dataset=Dataset(**settings), split=Split(**split), side=side)
        found[side] = [number for number, _ in source.rows()]
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def sizes(found: dict[str, list[int]]) -> list[int]:
    return [len(found[side]) for side in SIDES]


def everything(found: dict[str, list[int]]) -> list[int]:
    return sorted(number for side in SIDES for number in found[side])


@given(
    number=st.integers(0, 60),
    parts=st.tuples(st.floats(0, 0.49), st.floats(0, 0.49)),
    seed=st.integers(0, 3),
    by=st.sampled_from([{}, {"key": ("id",)}, {"stratify": "id"}]),
)
def test_every_row_is_on_one_side(tmp_path_factory, number, parts, seed, by):
    path = tmp_path_factory.getbasetemp() / "every.jsonl"
    rows = [{"id": at % 7} for at in range(number)]
    if not rows:
        return
    found = sides(path, rows, eval=parts[0], test=parts[1], seed=seed, **by)
    assert everything(found) == list(range(1, number + 1))


def test_drawn_parts_are_exact_and_a_seed_draws_others(path):
    rows = [{"id": at} for at in range(1000)]
    found = sides(path, rows, eval=0.1, test=0.025)
    assert sizes(found) == [875, 100, 25]
    assert found == sides(path, rows, eval=0.1, test=0.025)
    assert found != sides(path, rows, eval=0.1, test=0.025, seed=1)
    spread = [sum(number <= 500 for number in found[side]) / len(found[side]) for side in SIDES]
    assert all(0.3 < share < 0.7 for share in spread), "drawn from everywhere"


def test_parts_by_key_are_as_large_as_chance_makes_them_and_stay_when_rows_are_added(path):
    rows = [{"id": f"row {at}"} for at in range(4000)]
    found = sides(path, rows, eval=0.1, test=0.05, key=("id",))
    for side, part in (("eval", 0.1), ("test", 0.05)):
        deviation = math.sqrt(4000 * part * (1 - part))
        assert abs(len(found[side]) - 4000 * part) < 4 * deviation
    more = [{"id": f"new {at}"} for at in range(500)]
    longer = sides(path, [*rows, *more], eval=0.1, test=0.05, key=("id",))
    for side in SIDES:
        assert [number for number in longer[side] if number <= 4000] == found[side]
    reordered = sides(path, rows[::-1], eval=0.1, test=0.05, key=("id",))
    for side in SIDES:
        assert sorted(4001 - number for number in reordered[side]) == found[side]


def test_a_larger_part_keeps_the_rows_of_the_smaller(path):
    rows = [{"id": at} for at in range(500)]
    few = sides(path, rows, test=0.1, key=("id",))
    many = sides(path, rows, test=0.2, key=("id",))
    assert set(few["test"]) < set(many["test"])


@given(st.lists(st.sampled_from(["What is it?", "who  was that", "Où est-ce ?"]), min_size=1))
def test_near_duplicates_have_one_key(texts):
    for text in texts:
        for like in (
            text.upper(),
            f" {text}\n",
            text.replace(" ", "\t "),
            text.rstrip("? ") + "!!",
        ):
            assert normalised(like) == normalised(text)


def test_signs_alone_are_told_apart():
    assert normalised("!?") != normalised("...")
    assert normalised({"a": 1, "b": 2}) == normalised({"b": 2, "a": 1})
    assert normalised("1-2") == normalised("1 2")


def test_near_duplicates_and_the_rows_of_one_conversation_are_on_one_side(path):
    rows = [{"talk": f"{at // 4}", "text": f"Turn {at // 4}{'!' * (at % 4)}"} for at in range(400)]
    for key in (("talk",), ("text",), ("talk", "text")):
        found = sides(path, rows, eval=0.2, test=0.2, key=key)
        assert min(sizes(found)) > 0
        on = {number: side for side in SIDES for number in found[side]}
        assert all(len({on[4 * group + at] for at in (1, 2, 3, 4)}) == 1 for group in range(100))


def test_each_class_is_split_exactly(path):
    rows = [{"kind": "a" if at % 10 else "b", "id": at} for at in range(400)]
    found = sides(path, rows, eval=0.25, test=0.1, stratify="kind")
    kinds = {side: Counter(rows[number - 1]["kind"] for number in found[side]) for side in SIDES}
    assert kinds["eval"] == {"a": 90, "b": 10}
    assert kinds["test"] == {"a": 36, "b": 4}


def test_rows_and_columns_come_before_the_split(path):
    rows = [{"nr": at} for at in range(100)]
    dataset = {"rows": ":50", "columns": {"id": "nr"}}
    found = sides(path, rows, dataset, eval=0.2, key=("id",))
    assert everything(found) == list(range(1, 51))
    assert sizes(sides(path, rows, {"rows": ":50"}, eval=0.2)) == [40, 10, 0]


def test_a_split_source_goes_on_from_any_row(path):
    write_rows(path, [{"id": at} for at in range(200)])
    dataset = Dataset(source=Jsonl(path=str(path)), format=Messages())
    for split in (Split(eval=0.3), Split(eval=0.3, key=("id",))):
        source = SplitSource(dataset=dataset, split=split, side="eval")
        whole = list(source.rows())
        assert list(source.rows(90)) == [one for one in whole if one[0] >= 90]


# ---- in a recipe


def recipe_rows(tmp_path, number=40):
    rows = [{**conversation(at), "topic": f"t{at % 4}", "id": at} for at in range(number)]
    write_rows(tmp_path / "train.jsonl", rows)


def ids(store) -> list[str]:
    return [store.sample_id(at) for at in range(store.num_samples)]


def test_held_out_rows_are_evaluated_asked_and_never_trained(write_recipe, tmp_path):
    recipe_path = write_recipe(
        data={"split": {"eval": 0.1, "test": 0.2}},
        evaluation={"evaluators": [{"type": "exact_match", "num_rows": 100}]},
    )
    recipe_rows(tmp_path)
    recipe = resolve(recipe_path)
    data = prepare_data(recipe)
    assert (data.train.num_samples, data.eval.num_samples, len(data.test)) == (28, 4, 8)
    assert set(ids(data.train)).isdisjoint(ids(data.eval))
    trained = {
        data.tokenizer.decode(data.train.features(at).documents[0].tokens) for at in range(28)
    }
    assert not any(test.messages[1].content in text for test in data.test for text in trained)
    assert data.train.details["sources"]["train0"] == {
        "num_train_rows": 28,
        "num_eval_rows": 4,
        "num_test_rows": 8,
    }


def test_a_split_adds_to_what_the_recipe_holds_out(write_recipe, tmp_path):
    recipe = resolve(
        write_recipe(data={"split": {"eval": 0.25}, "eval": [{"source": "./eval.jsonl"}]})
    )
    evaluated = ids(prepare_data(recipe).eval)
    assert [one.partition(":")[0] for one in evaluated] == ["eval0"] * 4 + ["train0"] * 4


def test_another_split_is_other_data_and_mixing_settings_stay_with_training(write_recipe, tmp_path):
    first = prepare_data(resolve(write_recipe(data={"split": {"eval": 0.25}})))
    other = prepare_data(resolve(write_recipe(data={"split": {"eval": 0.25, "seed": 1}})))
    assert first.train.folder != other.train.folder
    assert first.eval.folder != other.eval.folder
    recipe = write_recipe(data={"split": {"eval": 0.25}})
    mixed = prepare_data(resolve(recipe, ["data.train.0.weight=2", "data.train.0.epochs=3"]))
    assert mixed.train.folder != first.train.folder
    assert mixed.eval.folder == first.eval.folder
    assert [one["passes"] for one in mixed.train.details["mixing"]["datasets"]] == [3.0]


def test_a_row_without_the_key_is_a_bad_row(write_recipe, tmp_path):
    recipe_rows(tmp_path)
    recipe = write_recipe(data={"split": {"eval": 0.3, "key": ["id"]}})
    recipe_rows(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines[4] = json.dumps(conversation(4))
    lines[9] = json.dumps({**conversation(9), "id": None})
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        prepare_data(resolve(recipe))
    found = [(one.line, one.what) for one in caught.value.problems]
    assert found == [
        (5, "column 'id', which data.split needs, is missing"),
        (10, "column 'id', which data.split needs, is null in this row"),
    ]
    data = prepare_data(resolve(recipe, ["data.on_bad_row=skip"]))
    (counts,) = data.train.details["datasets"]
    assert counts["num_skipped_rows"] == 2
    assert data.train.num_samples + data.eval.num_samples == 38
    assert not {"train0:5", "train0:10"} & {*ids(data.train), *ids(data.eval)}


def test_both_sides_are_read_in_the_format_of_the_first_row(write_recipe, tmp_path):
    recipe = write_recipe(
        data={"split": {"test": 0.5}, "train": [{"source": "./train.jsonl", "format": "auto"}]}
    )
    datasets = {part: named_datasets(resolve(recipe), part)["train0"] for part in ("train", "test")}
    assert datasets["train"].source.side == "train"
    assert len(read_test_samples(resolve(recipe), 100)) == 8


@pytest.mark.parametrize(
    ("split", "key", "hint"),
    [
        ({}, "data.split", "eval: 0.05"),
        ({"eval": 0.6, "test": 0.4}, "data.split", "eval: 0.05"),
        ({"eval": 0.1, "key": ["a"], "stratify": "b"}, "data.split.stratify", "remove"),
        ({"eval": 1.0}, "data.split.eval", ""),
    ],
)
def test_a_split_that_can_not_be_is_refused(write_recipe, split, key, hint):
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(data={"split": split}))
    assert [one.key for one in caught.value.problems] == [key]
    assert hint in caught.value.problems[0].hint


def test_a_name_that_a_split_uses_is_refused_for_held_out_data(write_recipe):
    data = {
        "train": [{"source": "./train.jsonl", "name": "calls"}],
        "eval": [{"source": "./eval.jsonl", "name": "calls"}],
    }
    resolve(write_recipe(data=data))
    with pytest.raises(UserError, match="another dataset of this part"):
        resolve(write_recipe(data={**data, "split": {"eval": 0.1}}))


def test_what_needs_held_out_rows_is_content_with_a_split(write_recipe):
    settings = {
        "evaluation": {
            "early_stopping": {"patience": 1},
            "num_generations": 1,
            "every_steps": 1,
            "evaluators": ["exact_match"],
        }
    }
    resolve(write_recipe(data={"split": {"eval": 0.1, "test": 0.1}}, **settings))
    with pytest.raises(UserError) as caught:
        resolve(write_recipe(data={"split": {"eval": 0.1}}, **settings))
    assert {one.key for one in caught.value.problems} == {
        "evaluation.num_generations",
        "evaluation.evaluators",
    }


def test_a_stream_is_split_by_key_alone(write_recipe):
    streamed = {
        "data": {"streaming": {}, "split": {"eval": 0.1}},
        "trainer": {"max_steps": 2},
        "checkpoint": {"every_steps": 1},
    }
    with pytest.raises(UserError, match="exact parts can't be drawn of a stream"):
        resolve(write_recipe(**streamed))
    resolve(write_recipe(**streamed), ["data.split.key=[id]"])


# ---- parts far from what was asked


def customer_rows(tmp_path, number=40):
    """Of 10 customers the first has 31 of 40 rows; seed 7 holds out that one alone, 2 none."""
    rows = [{**conversation(at), "customer": f"c{max(0, at - 30)}"} for at in range(number)]
    write_rows(tmp_path / "train.jsonl", rows)


def split_recipe(write_recipe, tmp_path, **split):
    recipe = write_recipe(data={"split": split})
    customer_rows(tmp_path)
    return resolve(recipe)


def warnings_of(recipe) -> list[str]:
    return [line for line in data_lines(prepare_data(recipe)) if line.startswith("warning: data.s")]


def test_a_key_of_few_values_that_holds_out_far_more_than_asked_is_warned_of(
    write_recipe, tmp_path
):
    recipe = split_recipe(write_recipe, tmp_path, eval=0.1, key=["customer"], seed=7)
    for _ in ("made", "from the cache"):
        assert warnings_of(recipe) == [
            "warning: data.split holds out 77.5% of train0 for eval (31 of 40 rows), asked were "
            "10.0%; its key [customer] has 10 values, and rows with the same one stay together"
        ]


def test_values_of_a_key_are_counted_only_when_they_are_few(path):
    for number, counted in ((999, {"num_key_values": 999}), (1000, {})):
        write_rows(path, [{"id": f"row {at % number}"} for at in range(1500)])
        dataset = Dataset(source=Jsonl(path=str(path)), format=Messages())
        source = SplitSource(dataset=dataset, split=Split(eval=0.3, key=("id",)), side="eval")
        for _ in range(2):
            num_rows = len(list(source.rows()))
            tally = dict(source.tally())
            sides = [tally.pop(f"num_{side}_rows") for side in SIDES]
            assert (tally, sum(sides), sides[1]) == (counted, 1500, num_rows)


def test_parts_near_what_was_asked_are_not_warned_of(write_recipe, tmp_path):
    assert warnings_of(split_recipe(write_recipe, tmp_path, eval=0.1, test=0.05)) == []


def test_an_empty_part_is_blamed_on_the_split_and_its_key(write_recipe, tmp_path):
    few = {"key": ["customer"], "seed": 2}
    for part, split in (("eval", {"eval": 0.1}), ("test", {"test": 0.1})):
        recipe = write_recipe(
            data={"split": {**split, **few}},
            evaluation={"evaluators": ["exact_match"]} if part == "test" else {},
        )
        customer_rows(tmp_path)
        with pytest.raises(UserError) as caught:
            prepare_data(resolve(recipe))
        (problem,) = caught.value.problems
        assert problem.key == "data.split"
        assert problem.what == (
            f"leaves none of the 40 rows of train0 to {part}: its key [customer] has 10 values, "
            "and rows with the same one stay together"
        )
        assert f"a larger `{part}` or another `seed`, or remove `key`" in problem.hint


def test_nothing_left_to_train_is_blamed_on_the_split(write_recipe, tmp_path):
    recipe = split_recipe(write_recipe, tmp_path, eval=0.1, key=["customer"], seed=7)
    write_rows(
        tmp_path / "train.jsonl", [{**conversation(at), "customer": "C 0"} for at in (1, 2, 3)]
    )
    with pytest.raises(UserError) as caught:
        prepare_data(recipe)
    (problem,) = caught.value.problems
    assert problem.key == "data.split"
    assert "none of the 3 rows of train0 to train: its key [customer] has 1 value," in problem.what
    assert "smaller `eval` and `test`" in problem.hint


def test_a_part_that_rounds_to_no_row_is_blamed_on_the_split(write_recipe, tmp_path):
    with pytest.raises(
        UserError, match=r"data\.split: leaves none of the 40 rows of train0 to eval"
    ):
        prepare_data(split_recipe(write_recipe, tmp_path, eval=0.01))
    with pytest.raises(UserError, match="of each class of 'customer' are rounded to whole rows"):
        prepare_data(split_recipe(write_recipe, tmp_path, eval=0.01, stratify="customer"))
