"""Token ids, classes and scores -> samples, and what a row that does not fit is told."""

from __future__ import annotations

import json

import pytest

from framework.core.problems import UserError
from framework.core.samples import (
    Classified,
    Conversation,
    Document,
    Message,
    RowError,
    Scored,
    Tokenized,
)
from framework.data.prepared import prepare_data
from framework.formatters.classification import Classification
from framework.formatters.pretokenized import Pretokenized
from framework.formatters.regression import Regression
from framework.recipe.resolve import resolve

IDS = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}


@pytest.fixture
def write_lines(write_recipe, tmp_path):
    """Writes the training rows; after `write_recipe`, which writes others."""

    def write(*rows):
        lines = (json.dumps(row) + "\n" for row in rows)
        (tmp_path / "train.jsonl").write_text("".join(lines))

    return write


def refused(format_, row):
    with pytest.raises(RowError) as caught:
        format_(row)
    return caught.value


def test_a_label_that_is_its_token_is_trained():
    assert Pretokenized()(IDS) == Tokenized(tokens=(5, 6, 7), trained=(False, True, True))
    every = Pretokenized(labels=False)({"input_ids": [5, 6]})
    assert every == Tokenized(tokens=(5, 6), trained=(True, True))


@pytest.mark.parametrize("before", [0, 2])
def test_padding_at_both_ends_is_left_out(before):
    row = {
        "input_ids": [0] * before + IDS["input_ids"] + [0, 0],
        "labels": [-100] * before + IDS["labels"] + [-100, -100],
        "attention_mask": [0] * before + [1, 1, 1, 0, 0],
    }
    assert Pretokenized()(row) == Pretokenized()(IDS)


@pytest.mark.parametrize(
    ("changed", "what", "hint"),
    [
        ({"labels": [-100, 6]}, "labels has 2 items, input_ids has 3", ""),
        ({"attention_mask": [1]}, "attention_mask has 1 items, input_ids has 3", ""),
        ({"labels": [-100, 6, 8]}, "labels[2] is 8, input_ids[2] is 7", "or -100"),
        ({"labels": [6, 7, -100]}, "labels[0] is 6, input_ids[0] is 5", "must not be shifted"),
        ({"input_ids": [5, "6", 7]}, "input_ids[1] is '6', not a whole number", ""),
        ({"input_ids": [5, True, 7]}, "input_ids[1] is True, not a whole number", ""),
        ({"input_ids": [5, 6.0, 7]}, "input_ids[1] is 6.0, not a whole number", ""),
        ({"input_ids": [5, -1, 7]}, "input_ids[1] is -1, which is no token", ""),
        ({"labels": [-101, 6, 7]}, "labels[0] is -101, which is no token", ""),
        ({"input_ids": "x"}, "input_ids is a string, but no JSON", ""),
        ({"attention_mask": [1, 0, 1]}, "is not 1 for one stretch", "as several rows"),
        ({"attention_mask": [1, 2, 1]}, "is not 1 for one stretch", "as several rows"),
        ({"attention_mask": [1, 1, 0]}, "trains tokens that attention_mask leaves out", ""),
        ({"input_ids": [], "labels": []}, "there are no tokens", "skip"),
    ],
)
def test_ids_that_do_not_agree_are_told_where(changed, what, hint):
    error = refused(Pretokenized(), {**IDS, **changed})
    assert what in error.what
    assert hint in error.hint


def test_rows_without_labels_are_told_how_to_train_every_token():
    assert "labels: false" in refused(Pretokenized(), {"input_ids": [5]}).hint


def test_texts_and_conversations_have_a_class_or_a_score():
    turns = [{"role": "user", "content": "Buy!"}, {"role": "assistant", "content": "No."}]
    talk = Conversation(
        messages=(
            Message(role="system", content="s"),
            Message(role="user", content="Buy!"),
            Message(role="assistant", content="No."),
        )
    )
    named = Classification()({"messages": turns, "system": "s", "label": "spam"})
    assert named == Classified(content=talk, label="spam")
    assert Classification()({"messages": turns[:1], "label": 0}).content.messages == (
        Message(role="user", content="Buy!"),
    )
    assert Classification()({"text": "Buy!", "label": 1}) == Classified(
        content=Document(text="Buy!"), label=1
    )
    assert Regression()({"text": "Buy!", "score": 3}) == Scored(
        content=Document(text="Buy!"), score=3.0
    )


@pytest.mark.parametrize(
    ("format_", "row", "what"),
    [
        (Classification(), {"text": "a", "label": 0.5}, "'label' is 0.5, not a class"),
        (Classification(), {"text": "a", "label": -1}, "'label' is -1, not a class"),
        (Classification(), {"text": "a", "label": " "}, "'label' is ' ', not a class"),
        (Classification(), {"text": "a"}, "has no column 'label'"),
        (Classification(), {"text": "", "label": 1}, "column 'text' is empty"),
        (Classification(), {"text": "a", "messages": [], "label": 1}, "both 'text' and 'messages'"),
        (Classification(), {"messages": [], "label": 1}, "messages is empty"),
        (Regression(), {"text": "a", "score": "good"}, "'score' is 'good', not a number"),
        (Regression(), {"text": "a", "score": float("nan")}, "'score' is nan, not a number"),
        (Regression(), {"text": "a", "score": True}, "'score' is True, not a number"),
    ],
)
def test_targets_that_do_not_fit_are_told_why(format_, row, what):
    assert what in refused(format_, row).what


def test_the_hints_lead_from_classes_to_scores_and_back():
    assert "format: regression" in refused(Classification(), {"text": "a", "label": 0.5}).hint
    assert "format: classification" in refused(Regression(), {"text": "a", "score": "x"}).hint


@pytest.mark.parametrize("trainer", ["sft", "pretrain"])
def test_token_ids_train_as_they_are_but_for_the_first(write_recipe, write_lines, trainer):
    write_lines({"input_ids": [5, 6, 7, 8], "labels": [5, -100, 7, 8]})
    overrides = [f"trainer.type={trainer}", "data.train.0.format=pretokenized"]
    data = prepare_data(resolve(write_recipe(), overrides))
    (document,) = data.train.features(0).documents
    assert document.tokens == (5, 6, 7, 8)
    assert document.trained == (False, False, True, True)


def test_an_id_of_another_tokenizer_is_a_bad_row(write_recipe, write_lines):
    write_lines(IDS, {"input_ids": [5, 9999], "labels": [5, -100]})
    recipe = resolve(write_recipe(), ["data.train.0.format=pretokenized"])
    with pytest.raises(
        UserError, match=r"train.jsonl:2: token id 9999 is none of this tokenizer's"
    ):
        prepare_data(recipe)


@pytest.mark.parametrize(
    "name", ["preference", "hh_rlhf", "prompt_only", "stepwise", "classification", "regression"]
)
def test_what_no_trainer_learns_from_yet_is_said_by_check(write_recipe, name):
    with pytest.raises(UserError, match="learns from") as caught:
        resolve(write_recipe(), [f"data.train.0.format={name}"])
    (problem,) = caught.value.problems
    assert problem.key == "data.train[0].format"
    assert "`sft` learns from conversations, prompt and completion, token ids" in problem.what


def test_token_ids_have_no_turns_to_split_at(write_recipe):
    overrides = ["data.train.0.format=pretokenized", "data.over_length=split"]
    with pytest.raises(UserError, match="`split` needs turns"):
        resolve(write_recipe(), overrides)
