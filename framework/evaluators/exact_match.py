"""Share of held-out requests that the model answers exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.evaluation import Answer, Evaluation
from framework.core.problems import Problem
from framework.core.protocols.data import Deciding
from framework.core.samples import Completion, Conversation, Message, RowError, Sample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.core.protocols.training import Generator
    from framework.recipe.schema import Recipe

_ANSWERED = (Conversation, Completion)
_HINT = "leave such rows out: `data.on_bad_row: skip`, or remove the evaluator"


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Exact match: share of answers that equal the text of the row's last answer. Thinking before
    `</think>` and outer white space count in neither."""

    num_rows: int = setting(100, at_least=1)
    """First rows of `data.test` that are asked."""
    max_new_tokens: int = setting(64, at_least=1)
    """Longest answer, in tokens."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """There must be rows to ask, and an answer to compare with."""
        asked = recipe.data.datasets_of("test")
        if not asked:
            yield Problem(
                key="evaluation.evaluators",
                what="exact_match asks `data.test`, which is empty",
                hint="add `data.test:` with a dataset, write `split: {test: 0.05}`, or remove the "
                "evaluator",
            )
        for key, dataset in asked.items():
            # What one that decides by rows makes is known when the rows are read.
            if isinstance(dataset.format, Deciding):
                continue
            produces = dataset.format.produces
            if produces not in _ANSWERED:
                yield Problem(
                    key=f"{key}.format",
                    what=f"{produces.__name__} samples have no answer to compare with",
                    hint="use a format with a prompt and an answer",
                )

    def check_sample(self, sample: Sample) -> None:
        """
        Raises:
            RowError: there is no text that an answer could equal.
        """
        answer = _last_answer(sample)
        if answer.tool_calls:
            raise RowError("its last answer calls tools, and exact_match compares texts", _HINT)
        if not _without_thinking(answer.content):
            raise RowError("has no answer that exact_match could compare with", _HINT)

    def evaluate(self, samples: Sequence[Sample], generate: Generator) -> Evaluation:
        """Of both texts, what follows their thinking counts; see `protocols.Evaluator`."""
        answers: list[Answer] = []
        for sample, said in zip(samples, generate(samples), strict=True):
            expected = _last_answer(sample).content
            correct = _without_thinking(said) == _without_thinking(expected)
            answers.append(
                Answer(prompt=_prompt(sample), expected=expected, answer=said, correct=correct)
            )
        value = sum(answer.correct for answer in answers) / max(len(answers), 1)
        return Evaluation(metric="exact_match", value=value, answers=tuple(answers))


def _prompt(sample: Sample) -> str:
    """What the user said last before the answer."""
    if isinstance(sample, Completion):
        return sample.prompt
    assert isinstance(sample, Conversation)
    before = sample.messages[: _answer_index(sample)]
    users = [message.content for message in before if message.role == "user"]
    return users[-1] if users else ""


def _last_answer(sample: Sample) -> Message:
    """The turn in whose place the model answers; an empty one where there is none."""
    if isinstance(sample, Completion):
        return Message(role="assistant", content=sample.completion)
    assert isinstance(sample, Conversation)
    index = _answer_index(sample)
    return Message(role="assistant", content="") if index is None else sample.messages[index]


def _answer_index(sample: Conversation) -> int | None:
    turns = range(len(sample.messages))
    return max((at for at in turns if sample.messages[at].role == "assistant"), default=None)


def _without_thinking(text: str) -> str:
    """What follows thinking, or all where none was ended, without outer white space."""
    before, close, after = text.partition("</think>")
    return (after if close else before).strip()
