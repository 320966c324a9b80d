"""`framework check` says what preparing the data would refuse at the first row, or before it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from framework.api import check
from framework.core.problems import Problem

CHAT = {
    "messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
}


@pytest.fixture
def problems_of(tmp_path: Path):
    def problems_of(*rows: Mapping[str, object], data: str = "", rest: str = "") -> list[Problem]:
        """What check says of a recipe on these rows; `data` stands in its dataset."""
        lines = "".join(json.dumps(row) + "\n" for row in rows or (CHAT,))
        (tmp_path / "chats.jsonl").write_text(lines, encoding="utf-8")
        recipe = tmp_path / "recipe.yaml"
        head = "model: {source: owner/model}\noutput: {dir: runs/x}\n"
        data = "".join(f"      {line}\n" for line in data.splitlines())
        dataset = f"data:\n  train:\n    - source: chats.jsonl\n{data}"
        recipe.write_text(f"{head}{dataset}{rest}\n", encoding="utf-8")
        return list(check(recipe))

    return problems_of


@pytest.mark.parametrize("written", ["chatml", "'{{ messages[0].content }}'"])
def test_a_template_that_is_there_is_no_problem(problems_of, written):
    assert problems_of(rest=f"tokenizer: {{chat_template: {written}}}") == []


def test_a_template_that_nobody_knows_is_a_problem_with_the_nearest_name(problems_of):
    (problem,) = problems_of(rest="tokenizer:\n  chat_template: lama3")
    assert (problem.key, problem.line) == ("tokenizer.chat_template", 7)
    assert problem.what == "there is no chat template 'lama3'"
    assert problem.hint.startswith("did you mean 'llama3'?")


def test_a_template_file_that_is_missing_is_a_problem_with_the_nearest_file(problems_of, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    for written, hint in (
        ("none.jinja", "a named template is one of: alpaca, "),
        ("mien.jinja", f"did you mean {str(tmp_path / 'mine.jinja')!r}?"),
        ("chatml.jinja", "did you mean the named template? write chat_template: chatml"),
    ):
        (problem,) = problems_of(rest=f"tokenizer: {{chat_template: {written}}}")
        assert problem.key == "tokenizer.chat_template"
        assert problem.what == f"there is no file {str(tmp_path / written)!r}"
        assert problem.hint.startswith(hint)
    assert problems_of(rest="tokenizer: {chat_template: mine.jinja}") == []


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        ("abc", "write it like `:1000`, `100:200`, `:10%` or `-500:`"),
        ("5", "write ':5' for the first 5"),
        ("10%", "write ':10%' for the first 10%"),
        ("1:2:3", "write it like `:1000`, `100:200`, `:10%` or `-500:`"),
    ],
)
def test_rows_that_are_no_slice_are_a_problem_at_their_line(problems_of, rows, hint):
    (problem,) = problems_of(data=f"rows: '{rows}'")
    assert (problem.key, problem.line) == ("data.train[0].rows", 6)
    assert problem.what == f"{rows!r} is not a slice"
    assert problem.hint == hint


@pytest.mark.parametrize("rows", [":1000", "0:1", ":100%", "-500:", ":"])
def test_rows_that_are_a_slice_are_no_problem(problems_of, rows):
    assert problems_of(data=f"rows: '{rows}'") == []


PAIR = {"prompt": "Hi?", "completion": "Hello."}


def test_a_first_row_that_does_not_fit_the_default_format_is_a_problem(problems_of, tmp_path):
    (problem,) = problems_of(PAIR)
    assert problem.key == "data.train[0].format"
    assert (problem.file, problem.line) == (str(tmp_path / "chats.jsonl"), 1)
    assert problem.what == "has no column 'messages', only prompt, completion"
    assert problem.hint == "its columns look like `format: prompt_completion`"
    assert problems_of(PAIR, data="format: prompt_completion") == []


def test_a_first_row_that_does_not_fit_a_written_format_is_a_problem(problems_of):
    (problem,) = problems_of(CHAT, data="format: alpaca")
    assert problem.key == "data.train[0].format"
    assert "chats.jsonl:1: data.train[0].format: has no column 'instruction'" in str(problem)


def test_a_column_that_columns_names_and_the_row_has_not_is_a_problem(problems_of):
    (problem,) = problems_of(data="columns: {messages: mesages}")
    assert problem.key == "data.train[0].columns"
    assert "has no column 'mesages', which `columns` names" in problem.what
    assert problem.hint.startswith("did you mean 'messages'?")


def test_only_rows_of_the_slice_are_looked_at(problems_of):
    assert problems_of(PAIR, CHAT, data="rows: '1:'") == []
    (problem,) = problems_of(CHAT, PAIR, data="rows: '1:'")
    assert (problem.line, problem.what[:24]) == (2, "has no column 'messages'")


def test_bad_rows_that_the_recipe_leaves_out_are_left_to_the_preparation(problems_of):
    assert problems_of(PAIR, rest="  on_bad_row: skip") == []


def test_single_rows_that_do_not_fit_are_left_to_the_preparation(problems_of):
    assert problems_of(PAIR, PAIR, CHAT) == []


def test_damaged_rows_are_left_to_the_preparation(problems_of, tmp_path):
    problems_of()
    for text in ("{\n", '{"messages": 1\n' + json.dumps(PAIR) + "\n", ""):
        (tmp_path / "chats.jsonl").write_text(text)
        assert check(tmp_path / "recipe.yaml") == ()


def test_a_large_json_list_is_not_parsed(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {source: owner/model}\noutput: {dir: runs/x}\ndata: {train: [{source: a.json}]}\n"
    )
    rows = json.dumps([PAIR])
    (tmp_path / "a.json").write_text(rows)
    (problem,) = check(recipe)
    assert "has no column 'messages'" in problem.what
    (tmp_path / "a.json").write_text(rows + " " * 50_000_000)
    assert check(recipe) == ()


@pytest.mark.parametrize("name", ["system_prompt", "task_prefix"])
@pytest.mark.parametrize(
    ("row", "trainer"), [({"text": "a"}, "pretrain"), ({"input_ids": [1], "labels": [1]}, "sft")]
)
def test_what_is_added_to_rows_found_to_have_no_prompt_is_a_problem(
    problems_of, name, row, trainer
):
    data = f"format: auto\n{name}: Be brief."
    (problem,) = problems_of(row, data=data, rest=f"trainer: {{type: {trainer}}}")
    assert (problem.key, problem.line) == (f"data.train[0].{name}", 7)


def test_a_format_that_the_trainer_can_not_learn_from_is_named_as_it_is_written(problems_of):
    (problem,) = problems_of({"text": "a"}, data="format: completion")
    assert problem.what == (
        "format `completion` makes raw text; "
        "trainer `sft` learns from conversations, prompt and completion, token ids"
    )
    assert problem.hint == "to train on raw text, write `trainer: {type: pretrain}`"


def test_raw_text_found_under_sft_is_sent_to_pretraining(problems_of):
    (problem,) = problems_of({"text": "a", "url": "b"}, data="format: auto")
    assert problem.hint == "to train on raw text, write `trainer: {type: pretrain}`"


TURN = {"from": "human", "value": "Hi?"}


def test_preferences_under_sft_are_not_sent_to_what_reads_their_prompt_alone(problems_of):
    answer = {"from": "gpt", "value": "Hello."}
    row = {"conversations": [TURN], "chosen": answer, "rejected": {**answer, "value": "No."}}
    (problem,) = problems_of(row, data="format: auto")
    assert problem.what.startswith("auto finds preference, as ")
    names = ("cpo", "dpo", "orpo", "reward", "simpo")
    trainers = " or ".join(f"`trainer: {{type: {name}}}`" for name in names)
    assert problem.hint == f"write {trainers}, or use another format"


def test_text_with_a_class_under_sft_is_not_sent_to_a_format_that_is_refused_too(problems_of):
    (problem,) = problems_of({"text": "a", "label": 1}, data="format: auto")
    assert problem.hint.startswith("write `trainer: {type: classifier}`, or use another format")
    alone = "write `format: completion` and `trainer: {type: pretrain}`"
    assert problem.hint.endswith(f"; to train on the text alone, {alone}")


def test_a_file_of_an_unknown_ending_is_read_as_the_recipe_says(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    text = (
        "model: {source: owner/model}\noutput: {dir: runs/x}\ndata: {train: [{source: SOURCE}]}\n"
    )
    (tmp_path / "chats.weird").write_text(json.dumps(CHAT))
    recipe.write_text(text.replace("SOURCE", "chats.weird"))
    (problem,) = check(recipe)
    written = "{type: jsonl, path: chats.weird}"
    assert problem.hint.endswith(f"`source: {written}`")
    recipe.write_text(text.replace("SOURCE", written))
    assert check(recipe) == ()


@pytest.mark.parametrize("names", [("question", "answer"), ("query", "response")])
@pytest.mark.parametrize("written", ["", "format: prompt_completion"])
def test_questions_and_answers_are_read_as_the_hint_says(problems_of, names, written):
    row = dict(zip(names, ("Hi?", "Hello."), strict=True))
    (problem,) = problems_of(row, data=written)
    hint = f"format: {{type: prompt_completion, prompt: {names[0]}, completion: {names[1]}}}"
    assert problem.hint == f"write `{hint}`"
    assert problems_of(row, data=hint) == []


def test_rows_that_a_format_knows_are_sent_to_that_format(problems_of):
    (problem,) = problems_of({"instruction": "Add.", "input": "1 1", "output": "2"})
    assert problem.hint == "its columns look like `format: alpaca`"


def longest_row(write_recipe, **recipe):
    """What check says of rows of 500 tokens and a model of 512 positions."""
    return list(check(write_recipe(**{"data.max_length": 500}, **recipe)))


@pytest.mark.parametrize("adapter", ["prefix_tuning", "prompt_tuning", "p_tuning"])
def test_virtual_tokens_for_which_the_model_has_no_positions_are_a_problem(write_recipe, adapter):
    assert longest_row(write_recipe) == []
    fitting = {"type": adapter, "num_virtual_tokens": 12}
    assert longest_row(write_recipe, adapter=fitting) == []
    (problem,) = longest_row(write_recipe, adapter={"type": adapter, "num_virtual_tokens": 13})
    assert problem.key == "data.max_length"
    assert problem.what == (
        "500, with the adapter's 13 virtual tokens, is longer than the model's 512 positions"
    )
    assert problem.hint.startswith("write `data.max_length: 499`")


def test_scaled_positions_are_counted_before_the_model_is_loaded(write_recipe):
    adapter = {"type": "prompt_tuning", "num_virtual_tokens": 524}
    scaled = {"rope_scaling": {"type": "linear", "factor": 2}}
    assert longest_row(write_recipe, adapter=adapter, model=scaled) == []
    adapter["num_virtual_tokens"] += 1
    (problem,) = longest_row(write_recipe, adapter=adapter, model=scaled)
    assert "the model's 1024 positions" in problem.what
    assert problem.hint.endswith("`model.rope_scaling: {type: yarn, factor: 3}`")


def test_the_factor_that_is_proposed_is_large_enough(write_recipe):
    (problem,) = check(write_recipe(**{"data.max_length": 4000}))
    assert problem.hint.endswith("`model.rope_scaling: {type: yarn, factor: 8}`")


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 9999}, 64),
        ({"max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 2}}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "yarn"}}, 64),
        ({"max_position_embeddings": 64, "rope_parameters": {"full": {"rope_type": "x"}}}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic"}}, 64),
        ({"max_position_embeddings": 64, "rope_scaling": [1], "text_config": None}, 64),
        ({"n_positions": 64}, None),
        ({}, None),
    ],
)
def test_positions_are_those_that_config_json_says(write_recipe, tmp_path, config, limit):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for length in (64, 65):
        recipe = write_recipe(model={"source": str(folder)}, **{"data.max_length": length})
        said = [one for one in check(recipe) if one.key == "data.max_length"]
        assert len(said) == (limit is not None and length > limit)
