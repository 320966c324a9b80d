"""Conditions from a recipe are computed or refused, and never run as code."""

from __future__ import annotations

import time

import pytest

from framework.cleaners.filter import NAMES
from framework.cleaning.expressions import ExpressionError, compile_expression
from framework.core.linear_pattern import LONGEST_SEARCH_SECONDS, linear_pattern

FACTS = {"text": "abc def", "answer": "x", "num_words": 3, "row": 2, "dataset": "a"}
FACTS |= {"columns": {"score": 4, "label": "good"}}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("num_words > 2 and row == 2", True),
        ("not (num_words > 2) or 'abc' in text", True),
        ("1 < num_words <= 2", False),
        ("dataset in ['b', 'c']", False),
        ("dataset not in ('b', 'c')", True),
        ("len(text) - 2 * num_words == 1", True),
        ("num_words / row > 1.4", True),
        ("-num_words < +row", True),
        ("startswith(lower('ABC'), 'ab') and endswith(text, upper('F')) == false", True),
        ("count(text, 'c') == 1 and strip(' x ') == answer", True),
        ("matches(text, '^a[bc]+\\\\s') ", True),
        ("columns.score >= 4 and columns.label == 'good'", True),
        ("true", True),
    ],
)
def test_a_condition_is_computed_from_the_rows_facts(source, value):
    assert compile_expression(source, NAMES)(FACTS) is value


@pytest.mark.parametrize(
    ("source", "column", "what"),
    [
        ("num_wrds > 3", 1, "'num_wrds' is not a name here"),
        ("row > 1 and num_wrds > 3", 13, "'num_wrds' is not a name here"),
        ("row >", 6, "ends too early"),
        ("row = 3", 5, "unexpected '='"),
        ("row ! 3", 5, "unexpected char '!'"),
        ("row > 3 4", 9, "unexpected 4"),
        ("row", 1, "is a number, not true or false"),
        ("text > 3", 8, "'3' is a number, not a text as before >"),
        ("text + 'a' == 'b'", 1, "'text' is a text, not a number"),
        ("lenn(text) > 3", 1, "'lenn' is not a function here"),
        ("len(row) > 3", 5, "is a number, not a text or list"),
        ("text.__class__ == 1", 5, "an attribute (.) can't be used here"),
        ("columns.__class__.x == 1", 18, "an attribute (.) can't be used here"),
        ("text|length > 3", 6, "a filter (|) can't be used here"),
        ("[row] * 1000 == 1", 1, "is a list, not a number"),
        ("9 ** 9 ** 9 > row", 8, "a power (**) can't be used here"),
        ("text['a'] == 'b'", 5, "an index ([...]) can't be used here"),
        ("matches(text, answer)", 15, "the pattern of matches must be written out"),
        ("matches(text, '(a+)+')", 15, "can't repeat what has repetition"),
        ("(" * 900 + "row" + ")" * 900 + " > 1", 1, "is nested too deeply"),
        ("-" * 1500 + "row > 1", 1, "is nested too deeply"),
        ("row > 1 or " * 400 + "true", 2000, "the most are 2,000"),
    ],
)
def test_a_wrong_condition_is_refused_at_the_character_where_it_is_wrong(source, column, what):
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source, NAMES)
    assert what in caught.value.what
    if "nested" not in what:
        assert caught.value.column == column


def test_a_mistyped_name_gets_the_one_that_was_meant():
    with pytest.raises(ExpressionError) as caught:
        compile_expression("num_wrds > 3", NAMES)
    assert caught.value.hint == "did you mean 'num_words'?"


@pytest.mark.parametrize(
    "pattern", ["(a|aa)+$", "(?:a*)*b", "(a)\\1", "(?=a)b", "(?<!a)b", "((ab)+c)*"]
)
def test_patterns_that_could_run_for_ever_are_refused(pattern):
    with pytest.raises(ValueError, match="a pattern can't"):
        linear_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["[(+]+a|b", "\\(\\+\\)+", "(?:abc)+", "(a+|b)?", "(?i)x{2,5}", "[]+]*"]
)
def test_harmless_patterns_are_taken(pattern):
    assert linear_pattern(pattern)("nothing") in {True, False}


def test_a_search_that_takes_too_long_is_stopped_and_not_answered():
    search = linear_pattern("a*a*a*a*a*[bc]")
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        search("a" * 5_000)
    assert time.monotonic() - started < 10 * LONGEST_SEARCH_SECONDS
