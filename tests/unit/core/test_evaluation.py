"""Findings are held against each other only where the same was asked in the same way."""

from __future__ import annotations

from dataclasses import replace

from framework.core.evaluation import Answer, Evaluation, paired

SETTINGS = {"type": "exact_match", "num_rows": 1, "max_new_tokens": 4}


def finding(prompt: str = "a", **settings: int) -> Evaluation:
    answer = Answer(prompt=prompt, expected="b", answer="c", correct=False)
    evaluator = {**SETTINGS, **settings}
    return Evaluation(metric="exact_match", value=0.0, answers=(answer,), evaluator=evaluator)


def test_each_finding_is_paired_with_the_one_of_the_same_evaluator_wherever_it_stands():
    short, long, other = finding(), finding(max_new_tokens=8), finding(max_new_tokens=9)
    assert paired([short, long], [long, other]) == [(long, long), (None, other), (short, None)]
    assert paired([short], []) == [(short, None)]
    assert paired([short], [short, short]) == [(short, short), (None, short)]


def test_other_requests_answers_or_metrics_are_not_compared():
    one = finding()
    longer = replace(one, answers=one.answers * 2)
    harder = replace(one, answers=(replace(one.answers[0], expected="d"),))
    for other in (finding("x"), longer, harder, replace(one, metric="other")):
        assert not one.is_comparable(other)


def test_a_finding_that_does_not_say_how_it_was_asked_is_compared_by_its_requests():
    of_old = replace(finding(), evaluator=None)
    assert of_old.is_comparable(finding(max_new_tokens=8))
    assert not of_old.is_comparable(finding("x"))
