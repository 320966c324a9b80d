"""Exact match counts equal answers and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import write_rows

from framework.core.problems import UserError
from framework.core.samples import Completion, Conversation, Message, RowError, ToolCall
from framework.data.prepare import read_test_samples
from framework.evaluators.exact_match import ExactMatch
from framework.recipe.resolve import resolve


def talk(question: str, answer: str) -> Conversation:
    return Conversation(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        )
    )


def test_equal_answers_count_outer_white_space_aside():
    samples = [talk("a", "one"), talk("b", "two"), Completion(prompt="c", completion=" three\n")]
    answers = {"a": "one ", "b": "Two", "c": "three"}

    def generate(asked):
        return [
            answers[one.prompt if isinstance(one, Completion) else one.messages[0].content]
            for one in asked
        ]

    found = ExactMatch().evaluate(samples, generate)
    assert found.value == 2 / 3
    assert [answer.correct for answer in found.answers] == [True, False, True]
    assert [answer.prompt for answer in found.answers] == ["a", "b", "c"]


def test_the_last_answer_counts_whoever_speaks_after_it():
    thanks = Message(role="user", content="Thanks!")
    sample = Conversation(messages=(*talk("Capital of France?", "Paris").messages, thanks))
    (answer,) = ExactMatch().evaluate([sample], lambda samples: ["Paris"]).answers
    assert (answer.prompt, answer.expected, answer.correct) == (
        "Capital of France?",
        "Paris",
        True,
    )


@pytest.mark.parametrize("expected", ["Paris", "<think>I know it.</think>\nParis"])
@pytest.mark.parametrize(
    ("said", "is_correct"),
    [
        ("Paris", True),
        ("<think>Or Rome?</think>\n\nParis", True),
        ("Or Rome?</think> Paris ", True),  # after a prompt that ends in the opening tag
        ("<think>Paris", False),
        ("<think>Paris</think> Rome", False),
    ],
)
def test_thinking_counts_in_neither_answer(expected, said, is_correct):
    found = ExactMatch().evaluate([talk("Capital of France?", expected)], lambda samples: [said])
    assert found.answers[0].correct == is_correct


CALL = ToolCall(name="look", arguments={})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Message(role="assistant", content="", tool_calls=(CALL,)), "its last answer calls tools"),
        (Message(role="assistant", content="<think>Hm.</think>"), "has no answer"),
    ],
)
def test_rows_without_a_text_to_compare_with_are_bad_rows(write_recipe, tmp_path, answer, message):
    sample = Conversation(messages=(Message(role="user", content="a"), answer))
    with pytest.raises(RowError, match=message):
        ExactMatch().check_sample(sample)
    ExactMatch().check_sample(talk("a", "one"))
    ExactMatch().check_sample(Completion(prompt="a", completion="one"))

    turns: list[dict[str, Any]] = [
        {"role": one.role, "content": one.content} for one in sample.messages
    ]
    if answer.tool_calls:
        turns[1]["tool_calls"] = [{"function": {"name": "look", "arguments": {}}}]
    good = {"messages": [*turns[:1], {"role": "assistant", "content": "one"}]}
    write_rows(tmp_path / "test.jsonl", [good, {"messages": turns}])
    test = {"data": {"test": [{"source": "./test.jsonl"}]}}
    recipe = write_recipe(**test, evaluation={"evaluators": ["exact_match"]})
    with pytest.raises(UserError, match=rf"test.jsonl:2: {message}"):
        read_test_samples(resolve(recipe), 100)
    assert len(read_test_samples(resolve(recipe, ["+data.on_bad_row=skip"]), 100)) == 1
    # Nobody judges what is only shown.
    shown = resolve(recipe, ["evaluation.evaluators=[]", "+evaluation.num_generations=2"])
    assert len(read_test_samples(shown, 100)) == 2
