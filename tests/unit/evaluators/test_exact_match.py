"""Exact match counts equal answers and nothing else."""

from __future__ import annotations

from framework.core.samples import Completion, Conversation, Message
from framework.evaluators.exact_match import ExactMatch


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
