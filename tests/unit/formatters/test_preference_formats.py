"""Rows of preferences, prompts and steps -> samples, and what a row that does not fit is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from framework.core.registries import registry
from framework.core.samples import (
    Message,
    Preference,
    PromptOnly,
    RowError,
    StepwiseSupervision,
    UnpairedPreference,
)

USER = {"role": "user", "content": "Hi?"}
GOOD = {"role": "assistant", "content": "Hello."}
BAD = {"role": "assistant", "content": "No."}
ASKED = Message(role="user", content="Hi?")
HELLO = Message(role="assistant", content="Hello.")
NO = Message(role="assistant", content="No.")
PAIR = Preference(messages=(ASKED,), chosen=(HELLO,), rejected=(NO,))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def read(name, row):
    return registry("formatters").get(name)()(row)


def refused(name, row):
    with pytest.raises(RowError) as caught:
        read(name, row)
    return caught.value


PAIRS = {
    "texts": {"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."},
    "messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "a prompt of messages and texts": {"prompt": [USER], "chosen": "Hello.", "rejected": "No."},
    "one message each": {"prompt": "Hi?", "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "a prompt, and conversations that begin with it": {
        "prompt": "Hi?",
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
    },
    "turns": {
        "conversations": [{"from": "human", "value": "Hi?"}],
        "chosen": {"from": "gpt", "value": "Hello."},
        "rejected": {"from": "gpt", "value": "No."},
    },
}


@pytest.mark.parametrize("written", PAIRS)
def test_a_preference_is_the_same_however_it_is_written(written):
    assert read("preference", PAIRS[written]) == PAIR


def test_a_preference_has_its_margin_system_and_tools():
    row = {**PAIRS["texts"], "margin": 2, "system": "Be kind.", "tools": json.dumps([TOOL])}
    sample = read("preference", row)
    assert sample.messages == (Message(role="system", content="Be kind."), ASKED)
    assert (sample.margin, sample.tools) == (2.0, (TOOL,))
    whole = read("preference", {**PAIRS["whole conversations"], "system": "Be kind."})
    assert whole.messages == sample.messages


def test_continuations_may_hold_several_turns():
    more = [GOOD, {"role": "user", "content": "Really?"}, {"role": "assistant", "content": "Yes."}]
    sample = read("preference", {"prompt": "Hi?", "chosen": more, "rejected": [BAD]})
    assert [message.content for message in sample.chosen] == ["Hello.", "Really?", "Yes."]


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ({"prompt": "Hi?", "chosen": "Hello."}, "has no column 'rejected'", "format: prompt_only"),
        ({**PAIRS["texts"], "rejected": "Hello."}, "chosen and rejected are the same", "skip"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "are the same", "skip"),
        ({"chosen": "a", "rejected": "b"}, "is text, and there is no 'prompt'", "hh_rlhf"),
        ({**PAIRS["texts"], "chosen": " "}, "column 'chosen' is empty", "skip"),
        ({**PAIRS["texts"], "chosen": None}, "column 'chosen' is null, not a string", ""),
        ({**PAIRS["texts"], "prompt": [USER, GOOD]}, "the prompt in prompt ends with", "end it"),
        ({**PAIRS["texts"], "chosen": [USER]}, "chosen begins with 'user'", ""),
        ({**PAIRS["texts"], "chosen": []}, "chosen is empty", ""),
        (
            {"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Ho?"}, BAD]},
            "first differ in turn 1, the user turn",
            "skip",
        ),
        (
            {"chosen": [USER, GOOD, USER, BAD], "rejected": [USER, GOOD]},
            "first differ in turn 3, the user turn",
            "skip",
        ),
        ({"chosen": [GOOD], "rejected": [BAD]}, "ends before it began", "end it"),
        ({**PAIRS["texts"], "margin": "much"}, "'margin' is 'much', not a number", "null"),
        ({**PAIRS["texts"], "margin": True}, "'margin' is True, not a number", "null"),
        ({**PAIRS["texts"], "chosen": [GOOD, GOOD]}, "the turn before is assistant too", "join"),
    ],
)
def test_a_preference_that_is_none_is_told_why(row, what, hint):
    error = refused("preference", row)
    assert what in error.what
    assert hint in error.hint


def test_hh_rlhf_parts_the_dialogues_where_they_differ():
    row = {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant: I.\nMe: too. ",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant: You.",
    }
    sample = read("hh_rlhf", row)
    assert [(m.role, m.content) for m in sample.messages] == [
        ("user", "Hi?"),
        ("assistant", "Yes?"),
        ("user", "Who?"),
    ]
    assert sample.chosen == (Message(role="assistant", content="I.\nMe: too."),)
    assert sample.rejected == (Message(role="assistant", content="You."),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "what"),
    [
        ("Hello.", "\n\nHuman: a\n\nAssistant: b", "'chosen' does not begin with a turn"),
        ("\n\nHuman: a\n\nAssistant: b", "", "column 'rejected' is empty"),
        ("Human: a\n\nAssistant: b", "Human: a\n\nAssistant: b", "are the same"),
        ("Human: a\n\nAssistant: ", "Human: a\n\nAssistant: b", "chosen[1] (assistant): is empty"),
        ("Human: a\n\nHuman: c", "Human: a\n\nAssistant: b", "chosen[1] (user): the turn before"),
        ("Human: a\n\nAssistant: b", "Human: x\n\nAssistant: b", "first differ in turn 1"),
    ],
)
def test_texts_that_are_no_dialogues_are_told_why(chosen, rejected, what):
    assert what in refused("hh_rlhf", {"chosen": chosen, "rejected": rejected}).what


@pytest.mark.parametrize("label", [True, 1])
def test_an_unpaired_preference_is_read_from_columns_and_from_a_conversation(label):
    expected = UnpairedPreference(messages=(ASKED,), completion=(HELLO,), label=True)
    for row in (
        {"prompt": "Hi?", "completion": "Hello.", "label": label},
        {"prompt": [USER], "completion": [GOOD], "label": label},
        {"messages": [USER, GOOD], "label": label},
    ):
        assert read("unpaired_preference", row) == expected


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Hi?", "completion": "Hello."}, "has no column 'label'"),
        ({"prompt": "Hi?", "completion": "Hello.", "label": "good"}, "'label' is 'good', not true"),
        ({"prompt": "Hi?", "completion": "Hello.", "label": 0.5}, "'label' is 0.5, not true"),
        ({"prompt": "Hi?", "completion": "Hello.", "label": None}, "'label' is None, not true"),
        ({"messages": [USER], "label": True}, "the last of messages begins with 'user'"),
        ({"messages": [], "label": True}, "the last of messages is empty"),
        ({"messages": [GOOD], "label": True}, "the prompt in messages ends before it began"),
    ],
)
def test_an_unpaired_preference_that_is_none_is_told_why(row, what):
    assert what in refused("unpaired_preference", row).what


def test_a_prompt_keeps_the_other_columns_for_judges():
    row = {"prompt": "1+1?", "system": "Add.", "answer": 2, "tests": ["a"], "tools": [TOOL]}
    assert read("prompt_only", row) == PromptOnly(
        messages=(Message(role="system", content="Add."), Message(role="user", content="1+1?")),
        tools=(TOOL,),
        columns={"answer": 2, "tests": ["a"]},
    )
    assert read("prompt_only", {"prompt": [USER]}).messages == (ASKED,)
    assert "ends with 'assistant'" in refused("prompt_only", {"prompt": [USER, GOOD]}).what
    assert (
        "ends with 'system'"
        in refused("prompt_only", {"prompt": [{"role": "system", "content": "s"}]}).what
    )


def test_steps_have_a_label_each():
    row = {"prompt": "1+1?", "completions": ["1", "So 2."], "labels": [True, 0.25]}
    assert read("stepwise", row) == StepwiseSupervision(
        messages=(Message(role="user", content="1+1?"),), steps=("1", "So 2."), labels=(1.0, 0.25)
    )


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"labels": [True]}, "completions has 2 steps, labels has 1"),
        ({"completions": [], "labels": []}, "completions has 0 steps"),
        ({"completions": "a"}, "completions is a string, but no JSON"),
        ({"completions": ["a", 3]}, "completions[1] is 3, not the text of a step"),
        ({"completions": ["a", ""]}, "completions[1] is '', not the text of a step"),
        ({"labels": [True, "no"]}, "labels[1] is 'no'"),
        ({"labels": [True, 2]}, "labels[1] is 2"),
        ({"labels": [True, None]}, "labels[1] is None"),
    ],
)
def test_steps_that_do_not_fit_are_told_why(changed, what):
    row = {"prompt": "1+1?", "completions": ["1", "So 2."], "labels": [True, False], **changed}
    assert what in refused("stepwise", row).what


# ---- real files


def real_rows(name: str) -> list[dict]:
    folder = os.environ.get("FRAMEWORK_TEST_DATA")
    if not folder:
        pytest.skip("FRAMEWORK_TEST_DATA names no folder of real data sets")
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def test_every_row_of_a_real_preference_set_is_read_or_refused_for_a_reason():
    rows = real_rows("dpo_en_demo.json")
    samples, refusals = [], []
    for row in rows:
        try:
            samples.append((row, read("preference", row)))
        except RowError as error:
            refusals.append(error.what)
    assert len(samples) + len(refusals) == len(rows) > 100
    assert len(samples) > 0.95 * len(rows), refusals[:5]
    for row, sample in samples:
        assert sample.chosen[-1].content == row["chosen"]["value"]
        assert sample.rejected[-1].content == row["rejected"]["value"]
        assert [m.content for m in sample.messages] == [t["value"] for t in row["conversations"]]


def test_every_row_of_a_real_instruction_set_is_read():
    rows = real_rows("alpaca_en_demo.json")
    assert len(rows) > 100
    for row in rows:
        assert read("alpaca", row).messages[-1].content == row["output"]
