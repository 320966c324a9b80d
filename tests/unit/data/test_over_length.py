"""What becomes of a document that is too long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from framework.core.batch import Encoded
from framework.data.over_length import POLICIES


def document(length: int, prompt: int = 1) -> Encoded:
    trained = tuple(place >= max(prompt, 1) for place in range(length))
    return Encoded(tokens=tuple(range(length)), trained=trained)


def test_dropping_leaves_nothing_and_truncating_the_beginning():
    assert POLICIES["drop"](document(9), 4) == ()
    (cut,) = POLICIES["truncate"](document(9), 4)
    assert cut.tokens == (0, 1, 2, 3)


@given(st.integers(2, 60), st.integers(2, 20), st.integers(1, 30))
def test_splitting_trains_every_trained_token_once(length, max_length, prompt):
    whole = document(length, prompt)
    parts = POLICIES["split"](whole, max_length)
    assert all(2 <= len(part.tokens) <= max_length for part in parts)
    assert not any(part.trained[0] for part in parts)
    trained = [
        token
        for part in parts
        for token, is_trained in zip(part.tokens, part.trained, strict=True)
        if is_trained
    ]
    assert trained == [token for token in range(length) if whole.trained[token]]
