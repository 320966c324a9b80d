"""A message is found where it first stands in whole: as it is, or as JSON or Python write it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.chat.survival import find_text
from framework.proofs.text import said_until


def as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def as_ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


JSON_FORMS: list[Callable[[str], str]] = [str, as_json, as_ascii]
FORMS = [
    *JSON_FORMS,
    lambda text: repr(text)[1:-1],
    lambda text: as_json(as_json(text)),
    lambda text: as_ascii(as_ascii(text)),
]
WORDS = st.text(alphabet="aab ,\"'\\\n\té", min_size=1, max_size=5)


def first_end(forms, text: str, start: int, end: int) -> int:
    """Where the first of the forms ends, each looked for by itself."""
    ends = [text.find(form, start, end) + len(form) for form in forms if form in text[start:end]]
    return min(ends, default=-1)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, str]:
    """A message, and a text of its forms, its beginning and other words."""
    message = draw(WORDS)
    parts = [*(write(message.strip()) for write in FORMS), message[:2]]
    return message, "".join(draw(st.lists(st.sampled_from(parts) | WORDS, max_size=8)))


@settings(max_examples=500, deadline=None)
@given(texts(), st.integers(0, 3), st.integers(0, 60))
def test_the_form_that_ends_first_counts(pair: tuple[str, str], start: int, length: int):
    message, text = pair
    wanted, end = message.strip(), start + length
    if not wanted:
        assert said_until(message, text, start, end) == find_text(message, text, start) == start
        return
    forms = [write(wanted) for write in FORMS]
    assert said_until(message, text, start, end) == first_end(forms, text, start, end)
    found = first_end([write(wanted) for write in JSON_FORMS], text, start, len(text))
    assert find_text(message, text, start) == (None if found < 0 else found)


@pytest.mark.parametrize("find", [lambda *args: said_until(*args, 99), find_text])
def test_an_escaped_form_before_the_plain_one_is_the_first(find):
    assert find("one\ntwo", "one\\ntwo then one\ntwo", 0) == len("one\\ntwo")
