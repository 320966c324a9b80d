"""Rows of every built-in format -> samples, and what a row that does not fit is told."""

import inspect
import json

import pytest

from framework.core.registries import registry
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    PromptOnly,
    RowError,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    ToolCall,
    UnpairedPreference,
)
from framework.formatters import alpaca as alpaca_module
from framework.formatters.alpaca import Alpaca
from framework.formatters.completion import Completion as CompletionFormat
from framework.formatters.messages import Messages
from framework.formatters.prompt_completion import PromptCompletion
from framework.formatters.sharegpt import Sharegpt


def turns(conversation):
    return [(message.role, message.content) for message in conversation.messages]


def refused(format_, row):
    with pytest.raises(RowError) as caught:
        format_(row)
    return caught.value


def test_alpaca_joins_instruction_and_input_by_a_line_end():
    row = {"instruction": "Add.", "input": "1 1", "output": "2"}
    assert Alpaca()(row) == Conversation(
        messages=(Message(role="user", content="Add.\n1 1"), Message(role="assistant", content="2"))
    )


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}, {"input": " "}])
def test_alpaca_without_input_asks_the_instruction_alone(given):
    conversation = Alpaca()({"instruction": "Hi", "output": "Hello", **given})
    assert turns(conversation) == [("user", "Hi"), ("assistant", "Hello")]


def test_alpaca_puts_system_and_history_first():
    row = {
        "instruction": "And 2?",
        "output": "3",
        "system": "You add one.",
        "history": [["0?", "1"], ["1?", "2"]],
    }
    assert turns(Alpaca()(row)) == [
        ("system", "You add one."),
        ("user", "0?"),
        ("assistant", "1"),
        ("user", "1?"),
        ("assistant", "2"),
        ("user", "And 2?"),
        ("assistant", "3"),
    ]


@pytest.mark.parametrize("history", ["x", [["a"]], [["a", 1]], [["a", "b", "c"]], {"a": "b"}, [1]])
def test_alpaca_refuses_a_history_that_holds_no_pairs(history):
    error = refused(Alpaca(), {"instruction": "a", "output": "b", "history": history})
    assert "[request, answer] pairs" in error.what


def test_alpaca_stays_the_model_of_a_short_format():
    assert len(inspect.getsource(alpaca_module).splitlines()) < 40


def test_prompt_completion_is_a_chat_by_default_and_plain_text_without():
    row = {"prompt": "1+1", "completion": "2"}
    assert turns(PromptCompletion()(row)) == [("user", "1+1"), ("assistant", "2")]
    plain = PromptCompletion(chat=False)
    assert plain(row) == Completion(prompt="1+1", completion="2")
    assert (PromptCompletion().produces, plain.produces) == (Conversation, Completion)


def test_prompt_completion_reads_question_context_and_answer():
    format_ = PromptCompletion(prompt="question", completion="answer", context="context")
    row = {"question": "Who?", "context": "Ada wrote it.", "answer": "Ada"}
    assert turns(format_(row))[0] == ("user", "Ada wrote it.\n\nWho?")
    assert turns(format_({**row, "context": None}))[0] == ("user", "Who?")
    assert "'context'" in refused(format_, {"question": "Who?", "answer": "Ada"}).what


def test_prompt_completion_takes_lists_of_messages():
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    expected = [("system", "s"), ("user", "u"), ("assistant", "a")]
    assert turns(PromptCompletion()(row)) == expected
    assert turns(PromptCompletion()({**row, "completion": "a"})) == expected
    assert "a list, not a string" in refused(PromptCompletion(chat=False), row).what
    row["prompt"].append({"role": "assistant", "content": "x"})
    assert "prompt and completion[3] (assistant)" in refused(PromptCompletion(), row).what


def test_completion_is_a_document():
    assert CompletionFormat()({"text": "Once."}) == Document(text="Once.")
    assert CompletionFormat(text="body")({"body": "Once."}) == Document(text="Once.")
    assert CompletionFormat().produces is Document


def test_sharegpt_reads_aliases_system_and_tools():
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "get", "arguments": {"c": "Rome"}}'},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny.", "weight": 0},
        ],
        "system": "Be brief.",
        "tools": '[{"name": "get", "parameters": {}}]',
    }
    conversation = Sharegpt()(row)
    assert conversation == Conversation(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Weather?"),
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall(name="get", arguments={"c": "Rome"}),),
            ),
            Message(role="tool", content="sunny"),
            Message(role="assistant", content="Sunny.", train=False),
        ),
        tools=({"type": "function", "function": {"name": "get", "parameters": {}}},),
    )
    as_text = {**row, "conversations": json.dumps(row["conversations"])}
    assert Sharegpt()(as_text) == conversation


def test_sharegpt_refuses_two_systems_and_names_the_format_of_other_turns():
    row = {
        "conversations": [{"from": "system", "value": "a"}, {"from": "gpt", "value": "b"}],
        "system": "c",
    }
    assert "system column too" in refused(Sharegpt(), row).what
    openai = {"conversations": [{"role": "user", "content": "a"}]}
    assert "`format: messages`" in refused(Sharegpt(), openai).hint
    assert "`format: sharegpt`" in refused(Messages(), {"messages": row["conversations"]}).hint


def test_a_function_call_without_json_is_refused():
    row = {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "function_call", "value": "get(c)"},
        ]
    }
    assert "conversations[1].tool_calls is a string, but no JSON" in refused(Sharegpt(), row).what


def test_messages_passes_tools_and_turns_on():
    row = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }
    assert Messages()(row) == Conversation(
        messages=(Message(role="user", content="a"), Message(role="assistant", content="b")),
        tools=tuple(row["tools"]),
    )


def test_a_missing_column_suggests_the_nearest_a_mapping_or_another_format():
    near = refused(Alpaca(), {"Instruction": "a", "output": "b"})
    assert near.what == "has no column 'instruction', only Instruction, output"
    assert near.hint == ("did you mean 'Instruction'? write `columns: {instruction: Instruction}`")
    other = refused(Messages(), {"id": 1, "conversations": [{"from": "human", "value": "a"}]})
    assert other.hint == "its columns look like `format: sharegpt`"
    none = refused(CompletionFormat(), {"q": 1})
    assert none.hint == "name the column that holds it: `columns: {text: ...}`"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "column 'text' is null, not a string"),
        (3, "column 'text' is a number, not a string"),
        (["a"], "column 'text' is a list, not a string"),
        ("  ", "column 'text' is empty"),
    ],
)
def test_a_column_that_holds_no_text_is_refused(value, what):
    assert refused(CompletionFormat(), {"text": value}).what == what


def test_every_format_says_what_it_produces_without_a_row():
    kind = registry("formatters")
    produced = {name: kind.get(name)().produces for name in kind.names()}
    assert produced == {
        "alpaca": Conversation,
        "auto": Sample,
        "classification": Classified,
        "completion": Document,
        "hh_rlhf": Preference,
        "messages": Conversation,
        "preference": Preference,
        "pretokenized": Tokenized,
        "prompt_completion": Conversation,
        "prompt_only": PromptOnly,
        "regression": Scored,
        "sharegpt": Conversation,
        "stepwise": StepwiseSupervision,
        "unpaired_preference": UnpairedPreference,
    }
