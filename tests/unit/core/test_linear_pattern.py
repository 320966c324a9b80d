"""Patterns for names of modules from a recipe end, whatever they are."""

from __future__ import annotations

import time

import pytest

from framework.core.linear_pattern import (
    PatternError,
    find_in_names,
    refuse_unbounded_name_pattern,
)
from framework.core.problems import UserError


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(.*a)*", "(a|aa)+b", "(x+x+)+y", "(a)\\1", "x*" * 6, "(", "a" * 6000]
)
def test_a_pattern_that_could_take_forever_is_refused(pattern):
    with pytest.raises(PatternError):
        refuse_unbounded_name_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.layers\.(\d+)\.(self_attn|mlp)\.(q|k|v)_proj",
        r"^(?!.*visual).*(q_proj|v_proj)$",
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:lm_head)",
        r"layers\.[0-9]{1,2}\.",
    ],
)
def test_patterns_that_people_write_are_let_through(pattern):
    refuse_unbounded_name_pattern(pattern)


def test_a_pattern_is_stopped_also_where_no_single_name_takes_long():
    names = tuple(f"{'a' * 34}.{number}" for number in range(2000))
    started = time.thread_time()
    with pytest.raises(UserError, match="takes more than 5 s for all names"):
        find_in_names("(a|aa)" * 14 + "[bc]", names)
    assert time.thread_time() - started < 7


def test_a_pattern_whose_time_grows_with_a_power_of_the_name_is_stopped_after_a_second():
    started = time.thread_time()
    with pytest.raises(UserError, match="takes more than 1 s"):
        find_in_names("a*a*a*a*a*[bc]", ("a" * 2000,))
    assert time.thread_time() - started < 3
