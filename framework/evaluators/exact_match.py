"""Share of held-out requests that the model answers exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.evaluation import Answer, Evaluation
from framework.core.problems import Problem
from framework.core.protocols.data import Deciding
from framework.core.samples import Completion, Conversation, Sample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.core.protocols.training import Generator
    from framework.recipe.schema import Recipe

_ANSWERED = (Conversation, Completion)


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """Exact match: share of answers that equal the expected text, outer white space aside."""

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

    def evaluate(self, samples: Sequence[Sample], generate: Generator) -> Evaluation:
        """See `protocols.Evaluator`."""
        answers = [
            Answer(
                prompt=_prompt(sample),
                expected=_expected(sample),
                answer=said,
                correct=said.strip() == _expected(sample).strip(),
            )
            for sample, said in zip(samples, generate(samples), strict=True)
        ]
        value = sum(answer.correct for answer in answers) / max(len(answers), 1)
        return Evaluation(metric="exact_match", value=value, answers=tuple(answers))


def _prompt(sample: Sample) -> str:
    if isinstance(sample, Conversation):
        users = [message for message in sample.messages if message.role == "user"]
        return users[-1].content if users else ""
    return sample.prompt if isinstance(sample, Completion) else ""


def _expected(sample: Sample) -> str:
    if isinstance(sample, Conversation):
        return sample.messages[-1].content
    assert isinstance(sample, Completion)
    return sample.completion
