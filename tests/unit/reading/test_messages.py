"""Turns in OpenAI's shape -> messages; broken ones are told where and why."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.core.registries import registry
from framework.core.samples import Conversation, Message, RowError, ToolCall
from framework.formatters.messages import Messages
from framework.reading.messages import conversation, optional_tools, parse_turns

USER = {"role": "user", "content": "u"}
ANSWER = {"role": "assistant", "content": "a"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    ],
}
RESULT = {"role": "tool", "content": "r", "tool_call_id": "c1"}


def refused(messages, **columns):
    with pytest.raises(RowError) as caught:
        Messages()({"messages": messages, **columns})
    return caught.value


def parsed(**turn):
    (message,) = parse_turns([turn], "messages")
    return message


def test_a_call_and_its_result_are_read():
    sample = Messages()({"messages": [USER, CALL, RESULT, ANSWER]})
    assert sample.messages[1].tool_calls == (
        ToolCall(name="f", arguments={"x": 1}, identifier="c1"),
    )
    assert sample.messages[1].content == ""
    assert sample.messages[2].tool_call_id == "c1"


@pytest.mark.parametrize(
    "calls",
    [
        [{"name": "f", "arguments": {"x": 1}}],
        [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
        {"name": "f", "arguments": {"x": 1}},
        '[{"name": "f", "arguments": {"x": 1}}]',
    ],
)
def test_calls_may_be_written_in_several_ways(calls):
    message = parsed(role="assistant", content="", tool_calls=calls)
    assert message.tool_calls == (ToolCall(name="f", arguments={"x": 1}),)


@pytest.mark.parametrize("arguments", [{"arguments": ""}, {"arguments": None}, {}])
def test_a_call_may_have_no_arguments(arguments):
    message = parsed(role="assistant", content="", tool_calls=[{"name": "f", **arguments}])
    assert message.tool_calls == (ToolCall(name="f", arguments={}),)


def test_the_older_function_call_and_function_role_are_read():
    old = [
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "r"},
        ANSWER,
    ]
    sample = Messages()({"messages": old})
    assert sample.messages[1].tool_calls == (ToolCall(name="f", arguments={}),)
    assert sample.messages[2] == Message(role="tool", name="f", content="r")


def test_keys_that_are_null_count_as_absent():
    nulls = dict.fromkeys(
        ("tool_calls", "tool_call_id", "name", "train", "weight", "reasoning_content", "thinking")
    )
    assert parsed(role="user", content="u", **nulls) == Message(role="user", content="u")


def test_text_parts_are_joined_by_line_ends():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]
    assert parsed(role="user", content=parts).content == "a\nb"


def test_other_parts_are_refused():
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]
    error = refused([{"role": "user", "content": parts}, ANSWER])
    assert error.what == "messages[0].content[1] is a part of type 'image_url'"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_read_from_each_of_its_names(key):
    assert parsed(role="assistant", content="a", **{key: "hm"}).reasoning == "hm"


@pytest.mark.parametrize(
    ("written", "train"),
    [
        ({"train": True}, True),
        ({"train": False}, False),
        ({"weight": 0}, False),
        ({"weight": 1.0}, True),
        ({"train": 0}, False),
        ({"train": 1.0}, True),
        ({"weight": False}, False),
        ({"weight": True}, True),
        ({"train": None}, None),
        ({"weight": None}, None),
        # Tables have a column for each key that any turn has; what is said in ours counts.
        ({"train": None, "weight": 0}, False),
        ({"train": False, "weight": 1}, False),
        ({"train": True, "weight": 0}, True),
        ({}, None),
    ],
)
def test_train_and_weight_choose_turns(written, train):
    assert parsed(role="assistant", content="a", **written).train is train


def test_a_developer_is_a_system():
    assert parsed(role="developer", content="s").role == "system"


def test_tools_are_wrapped_as_servers_send_them():
    wrapped = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for written in (
        [wrapped],
        [wrapped["function"]],
        json.dumps([wrapped]),
        [json.dumps(wrapped["function"])],
    ):
        assert optional_tools({"tools": written}) == (wrapped,)
    assert optional_tools({}) == optional_tools({"tools": None}) == ()
    assert optional_tools({"tools": ""}) == optional_tools({"tools": []}) == ()


@pytest.mark.parametrize("tools", ["{", 3, {"name": "f"}, [3], [{}], [{"function": {}}], ["x"]])
def test_broken_tools_are_refused(tools):
    assert refused([USER, ANSWER], tools=tools).what.startswith("tools")


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (None, "messages is null, not a list"),
        (
            "hello",
            "messages is a string, but no JSON: Expecting value near 'hello'",
        ),
        ({"role": ["user"]}, "messages is an object, not a list"),
        ([], "messages has no assistant turn, so there is nothing to learn"),
        ([USER], "messages has no assistant turn, so there is nothing to learn"),
        ([USER, "hi"], "messages[1] is the string 'hi', not an object"),
        ([USER, {"content": "a"}], "messages[1] has no 'role', only content"),
        ([USER, {"role": "assistant"}], "messages[1] has no 'content', only role"),
        ([USER, {"role": 1, "content": "a"}], "messages[1].role is a number, not a string"),
        ([USER, {"role": "asistant", "content": "a"}], "messages[1].role is 'asistant'"),
        (
            [USER, {"role": "assistant", "content": None}],
            "messages[1].content is null, not a string",
        ),
        (
            [USER, {"role": "assistant", "content": 3}],
            "messages[1].content is a number, not a string",
        ),
        ([USER, {**ANSWER, "content": " "}], "messages[1] (assistant): is empty and calls no tool"),
        ([USER, USER, ANSWER], "messages[1] (user): the turn before is user too"),
        ([USER, ANSWER, ANSWER], "messages[2] (assistant): the turn before is assistant too"),
        (
            [USER, {"role": "system", "content": "s"}, ANSWER],
            "messages[1] (system): a system turn can only be the first",
        ),
        (
            [USER, ANSWER, RESULT],
            "messages[2] (tool): a tool's result, but no call of the assistant's waits for one",
        ),
        (
            [USER, CALL, RESULT, RESULT],
            "messages[3] (tool): a tool's result, but no call of the assistant's waits for one",
        ),
        (
            [USER, CALL, USER, RESULT],
            "messages[3] (tool): a tool's result, but no call of the assistant's waits for one",
        ),
        (
            [USER, CALL, {**RESULT, "tool_call_id": "c2"}],
            "messages[2] (tool): answers the call 'c2', which does not wait for a result",
        ),
        (
            [{**USER, "tool_calls": CALL["tool_calls"]}, ANSWER],
            "messages[0] (user): only an assistant",
        ),
        (
            [{**USER, "thinking": "hm"}, ANSWER],
            "messages[0] (user): only an assistant turn can have re",
        ),
        (
            [USER, {**ANSWER, "train": "yes"}],
            "messages[1].train is the string 'yes', not true or false",
        ),
        ([USER, {**ANSWER, "weight": 0.5}], "messages[1].weight is a number, not true or false"),
        ([USER, {**ANSWER, "train": 2}], "messages[1].train is a number, not true or false"),
        ([USER, {**ANSWER, "weight": "0"}], "messages[1].weight is the string '0', not true"),
        ([USER, {**ANSWER, "weight": []}], "messages[1].weight is a list, not true or false"),
        ([USER, {**ANSWER, "name": 3}], "messages[1].name is a number, not a string"),
        (
            [USER, {**ANSWER, "tool_calls": [3]}],
            "messages[1].tool_calls[0] is a number, not an object",
        ),
        ([USER, {**ANSWER, "tool_calls": [{}]}], "messages[1].tool_calls[0] has no name"),
        (
            [USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": "{x"}]}],
            "messages[1].tool_calls[0].arguments is a string, but no JSON",
        ),
        (
            [USER, {**ANSWER, "tool_calls": [{"name": "f", "arguments": [1]}]}],
            "messages[1].tool_calls[0].arguments is a list, not an object",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_told_where_and_why(messages, what):
    assert refused(messages).what.startswith(what)


def test_an_unknown_role_is_told_the_nearest():
    assert refused([USER, {"role": "asistant", "content": "a"}]).hint == "did you mean 'assistant'?"
    assert "allowed: assistant, developer" in refused([{"role": "zz", "content": "a"}]).hint


def test_results_may_come_in_any_order_when_they_name_their_calls():
    calls = [{"id": name, "name": "f", "arguments": {}} for name in ("c1", "c2")]
    results = [{"role": "tool", "content": "r", "tool_call_id": name} for name in ("c2", "c1")]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    assert len(Messages()({"messages": [USER, asked, *results, ANSWER]}).messages) == 5


def test_a_conversation_may_start_with_the_assistant_and_end_with_the_user():
    turns = (Message(role="assistant", content="a"), Message(role="user", content="u"))
    assert conversation(turns) == Conversation(messages=turns)


TEXT = st.text(min_size=1).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=2)


@st.composite
def conversations(draw):
    """Any conversation that keeps the order: system, then exchanges with or without calls."""
    turns = []
    if draw(st.booleans()):
        turns.append(Message(role="system", content=draw(st.text())))
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message(role="user", content=draw(st.text()), name=draw(st.text(max_size=3))))
        if draw(st.booleans()):
            names = draw(st.lists(TEXT, min_size=1, max_size=2, unique=True))
            calls = [
                ToolCall(name=draw(TEXT), arguments=draw(ARGUMENTS), identifier=name)
                for name in names
            ]
            turns.append(
                Message(role="assistant", content=draw(st.text()), tool_calls=tuple(calls))
            )
            turns += [
                Message(role="tool", content=draw(st.text()), tool_call_id=name)
                for name in draw(st.permutations(names))
            ]
        turns.append(
            Message(
                role="assistant",
                content=draw(TEXT),
                reasoning=draw(st.text()),
                train=draw(st.none() | st.booleans()),
            )
        )
    return Conversation(messages=tuple(turns))


def as_turn(message, arguments):
    calls = [
        {"id": call.identifier, "function": {"name": call.name, "arguments": arguments(call)}}
        for call in message.tool_calls
    ]
    return {
        "role": message.role,
        "content": message.content,
        "reasoning_content": message.reasoning,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "train": message.train,
    }


@given(conversations())
def test_every_conversation_in_order_is_read_as_it_was_written(written):
    as_objects = [as_turn(m, lambda call: dict(call.arguments)) for m in written.messages]
    as_text = [as_turn(m, lambda call: json.dumps(call.arguments)) for m in written.messages]
    assert Messages()({"messages": as_objects}) == written
    assert Messages()({"messages": as_text}) == written


COLUMNS = [
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "prompt",
    "completion",
    "text",
    "tools",
]
TURN_KEYS = [
    "role",
    "content",
    "from",
    "value",
    "tool_calls",
    "function_call",
    "function",
    "name",
    "arguments",
    "id",
    "type",
    "text",
    "train",
    "weight",
    "reasoning_content",
    "tool_call_id",
]
WORDS = st.sampled_from(
    ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "text", "{}", "[]"]
)
TURNISH = st.recursive(
    JSON | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TURN_KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
FORMATS = [registry("formatters").get(name)() for name in registry("formatters").names()]


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: type(format_).__name__)
@given(row=st.dictionaries(st.sampled_from(COLUMNS) | st.text(), TURNISH, max_size=6))
def test_any_json_row_is_a_sample_or_a_row_error(format_, row):
    with contextlib.suppress(RowError):
        assert isinstance(format_(row), format_.produces)
