"""Run record -> what the model answered before, on the way and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from framework.core.evaluation import Answer, Evaluation, paired
from framework.reports.run_record import Generation, RunRecord

MOST_ANSWERS = 20
MOST_GENERATED_ROWS = 10
MOST_GENERATED_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """One held-out request answered before and after training."""

    number: int
    """Of the row, from 1."""
    prompt: str
    expected: str
    before: Answer | None
    after: Answer | None


@dataclass(frozen=True, kw_only=True)
class AnswerTable:
    """An evaluator's answers side by side."""

    metric: str
    pairs: tuple[AnswerPair, ...]
    num_all: int
    num_learned: int
    """Wrong before, right after."""
    num_unlearned: int
    """Right before, wrong after."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One held-out row's answers over the run."""

    number: int
    prompt: str
    answers: tuple[Generation, ...]


def answer_tables(record: RunRecord) -> tuple[AnswerTable, ...]:
    """Each evaluator's answers, wrong ones first."""
    return tuple(
        _answer_table(before, after) for before, after in paired(record.before, record.after)
    )


def _answer_table(before: Evaluation | None, after: Evaluation | None) -> AnswerTable:
    shown = after or before
    assert shown is not None
    pairs = [_pair(number, before, after) for number in range(len(shown.answers))]
    both = [(pair.before, pair.after) for pair in pairs]
    marks = Counter((old.correct, new.correct) for old, new in both if old and new)
    # A stable sort: rows stay in the order of the file within right and wrong.
    pairs.sort(key=lambda pair: bool(pair.after and pair.after.correct))
    return AnswerTable(
        metric=shown.metric,
        pairs=tuple(pairs[:MOST_ANSWERS]),
        num_all=len(pairs),
        num_learned=marks[False, True],
        num_unlearned=marks[True, False],
    )


def _pair(index: int, before: Evaluation | None, after: Evaluation | None) -> AnswerPair:
    old, new = (evaluation and evaluation.answers[index] for evaluation in (before, after))
    known = new or old
    assert known is not None
    return AnswerPair(
        number=index + 1, prompt=known.prompt, expected=known.expected, before=old, after=new
    )


def watched_rows(record: RunRecord) -> tuple[Watched, ...]:
    """The answers of each watched row, at a few steps from first to last."""
    by_row: dict[int, list[Generation]] = {}
    for generation in record.generations:
        by_row.setdefault(generation.row, []).append(generation)
    evaluations = record.after or record.before
    prompts = [answer.prompt for answer in evaluations[0].answers] if evaluations else []
    return tuple(
        Watched(
            number=row + 1,
            prompt=prompts[row] if row < len(prompts) else "",
            answers=_spread(answers),
        )
        for row, answers in sorted(by_row.items())[:MOST_GENERATED_ROWS]
    )


def _spread(answers: Sequence[Generation]) -> tuple[Generation, ...]:
    last = len(answers) - 1
    if last < MOST_GENERATED_STEPS:
        return tuple(answers)
    places = [round(n * last / (MOST_GENERATED_STEPS - 1)) for n in range(MOST_GENERATED_STEPS)]
    return tuple(answers[place] for place in places)
