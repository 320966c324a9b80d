"""Tool use end to end: rows of every shape -> what a template with tools renders and trains."""

from __future__ import annotations

import json

import pytest
from chat_families import FAMILIES, template_text, trained_spans

from framework.core.samples import Message, RowError, ToolCall
from framework.formatters.messages import Messages
from framework.formatters.sharegpt import Sharegpt
from framework.reading.hermes import read_tagged_calls

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLS = [{"name": "weather", "arguments": {"city": city}} for city in ("Paris", "Rome")]
TAGGED = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in CALLS)
ANSWER = "Sunny in both."


def openai(arguments, tools=(TOOL,)):
    calls = [
        {
            "id": f"c{at}",
            "type": "function",
            "function": {"name": "weather", "arguments": arguments(call["arguments"])},
        }
        for at, call in enumerate(CALLS)
    ]
    return {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            # The results come in the other order, and say whose they are.
            {"role": "tool", "content": '{"sky": "clear"}', "tool_call_id": "c1"},
            {"role": "tool", "content": '{"sky": "blue"}', "tool_call_id": "c0"},
            {"role": "assistant", "content": ANSWER},
        ],
        "tools": tools,
    }


HERMES = {
    "conversations": [
        {"from": "human", "value": "Weather?"},
        {"from": "gpt", "value": TAGGED},
        {
            "from": "tool",
            "value": '<tool_response>\n{"sky": "clear"}\n</tool_response>\n'
            '<tool_response>\n{"sky": "blue"}\n</tool_response>',
        },
        {"from": "gpt", "value": ANSWER},
    ],
    "tools": json.dumps([TOOL]),
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(CALLS)},
        {"from": "observation", "value": '{"sky": "clear"}'},
        {"from": "observation", "value": '{"sky": "blue"}'},
        {"from": "gpt", "value": ANSWER},
    ],
    "tools": json.dumps([TOOL["function"]]),
}
ROWS = {
    "arguments as objects": (Messages(), openai(dict)),
    "arguments as JSON text": (Messages(), openai(json.dumps)),
    "tools as JSON text": (Messages(), openai(dict, json.dumps([TOOL]))),
    "function_call turns": (Sharegpt(), SHAREGPT),
    "Hermes tags": (Sharegpt(), HERMES),
}


@pytest.mark.parametrize("written", ROWS)
def test_parallel_calls_are_trained_and_results_are_not(written):
    format_, row = ROWS[written]
    chat = FAMILIES["chatml"].encoder(template_text("qwen2_5_training"))
    sample = format_(row)
    assert trained_spans(chat, sample) == [[f"{TAGGED}<|im_end|>", f"{ANSWER}<|im_end|>"]]
    (document,) = chat.conversation(sample)
    text = chat.vocabulary.decode(list(document.tokens))
    assert '"description": "Tells the weather."' in text
    results = ["<tool_response>\n" + sky for sky in ('{"sky": "clear"}', '{"sky": "blue"}')]
    assert [text.count(result) for result in results] == [1, 1]
    assert text.index(results[0]) < text.index(results[1])


@pytest.mark.parametrize("written", ROWS)
def test_a_template_without_tools_refuses_them(written):
    format_, row = ROWS[written]
    with pytest.raises(RowError, match=r"has no place for tools|drops the call"):
        FAMILIES["chatml"].encoder("vicuna").conversation(format_(row))


def test_results_before_their_calls_are_refused():
    row = openai(dict)
    row["messages"][1], row["messages"][2] = row["messages"][2], row["messages"][1]
    with pytest.raises(RowError, match="no call of the assistant's waits"):
        Messages()(row)


def said(text):
    return Message(role="assistant", content=text)


def test_words_before_tagged_calls_stay():
    (turn,) = read_tagged_calls([said(f"I look.\n{TAGGED}\n")])
    assert turn.content == "I look."
    assert turn.tool_calls == tuple(ToolCall(**call) for call in CALLS)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>weather(Paris)</tool_call>",
        "<tool_call>{'name': 'weather'}</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
        "<tool_call>[1]</tool_call>",
        f"{TAGGED} and more",
        "<tool_call>",
        "no call",
    ],
)
def test_text_that_is_no_call_stays_as_it_is(text):
    assert read_tagged_calls([said(text)]) == (said(text),)


def test_tags_are_text_where_a_conversation_has_no_tools():
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": TAGGED}]}
    assert Messages()(row).messages[1].content == TAGGED


def test_many_broken_tags_are_read_in_no_time():
    text = "<tool_call>{" * 20_000 + "</tool_call>" * 3
    assert read_tagged_calls([said(text)]) == (said(text),)
