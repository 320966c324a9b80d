"""What can't be said of a stream is refused with what to write."""

from __future__ import annotations

import pytest

from framework.api import check

STREAMED = {
    "data": {"streaming": {}},
    "trainer": {"max_steps": 50},
    "checkpoint": {"every_steps": 5},
}


def test_streaming_with_steps_is_good(write_recipe):
    assert check(write_recipe(**STREAMED)) == ()


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("trainer.max_steps=null", "trainer.max_steps", "write max_steps: 1000"),
        ("checkpoint.every_steps=null", "checkpoint.every_steps", "write every_steps: 5"),
        ("checkpoint.every_epochs=1", "checkpoint.every_epochs", "write every_steps"),
        ("data.mixture=concatenate", "data.mixture", "write mixture: shuffle"),
        ("data.mixing_unit=rows", "data.mixing_unit", "write mixing_unit: trained_tokens"),
        ("+data.train[0].epochs=2", "data.train[0].epochs", "remove it"),
        ("+data.train[0].rows=:10", "data.train[0].rows", "leave it out"),
        ("data.cleaners=[exact_duplicates]", "data.cleaners", "clean the data first"),
        ("+data.train={source: ./train.jsonl, name: b}", "data.train", "write `weight: 1`"),
    ],
)
def test_what_needs_an_end_or_a_memory_is_refused(write_recipe, override, key, hint):
    found = [one for one in check(write_recipe(**STREAMED), [override]) if one.key == key]
    assert any(hint in one.hint for one in found), check(write_recipe(**STREAMED), [override])
