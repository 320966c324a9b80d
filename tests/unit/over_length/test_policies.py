"""What becomes of a document that is too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.core.batch import Encoded, Features
from framework.core.samples import Document, TooLong
from framework.over_length.drop import Drop
from framework.over_length.error import Error
from framework.over_length.truncate import Truncate
from framework.over_length.windows import Windows


def document(length: int, prompt: int = 1) -> Encoded:
    trained = tuple(place >= max(prompt, 1) for place in range(length))
    return Encoded(tokens=tuple(range(length)), trained=trained)


def shortened(policy, whole: Encoded, max_length: int) -> list[Encoded]:
    found = policy(Document(text="text"), Features(documents=(whole,)), max_length, None)
    return [one for features in found for one in features.documents]


def test_dropping_leaves_nothing_and_truncating_the_beginning():
    assert shortened(Drop(), document(9), 4) == []
    (cut,) = shortened(Truncate(), document(9), 4)
    assert cut == Encoded(tokens=(0, 1, 2, 3), trained=(False, True, True, True))


def test_an_error_says_the_length_and_what_to_write():
    with pytest.raises(TooLong, match=r"becomes 9 tokens, data\.max_length is 4") as caught:
        shortened(Error(), document(9), 4)
    assert caught.value.hint.startswith("write data.max_length: 9")


@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 30), st.integers(1, 19))
def test_windows_train_every_trained_token_once(more, max_length, prompt, overlap):
    length = max_length + more
    whole = document(length, prompt)
    overlap = min(overlap, max_length - 1)
    parts = shortened(Windows(overlap=overlap), whole, max_length)
    assert all(2 <= len(part.tokens) <= max_length for part in parts)
    assert not any(part.trained[0] for part in parts)
    assert all(len(part.tokens) > overlap for part in parts[1:])
    trained = [
        token
        for part in parts
        for token, is_trained in zip(part.tokens, part.trained, strict=True)
        if is_trained
    ]
    assert trained == [token for token in range(length) if whole.trained[token]]
