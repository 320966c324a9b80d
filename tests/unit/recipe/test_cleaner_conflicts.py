"""Cleaners that stand twice in a recipe are told of."""

from __future__ import annotations

from framework.api import check
from framework.recipe.resolve import notes_of, resolve


def test_the_same_cleaner_right_after_itself_is_refused(write_recipe):
    recipe = write_recipe(data={"cleaners": ["encoding", "exact_duplicates", "exact_duplicates"]})
    (found,) = check(recipe)
    assert found.key == "data.cleaners[2]"
    assert found.what == "is the same as data.cleaners[1], right after it"
    assert found.line


def test_the_same_cleaner_with_another_between_is_noted(write_recipe):
    recipe = write_recipe(data={"cleaners": ["exact_duplicates", "encoding", "exact_duplicates"]})
    assert check(recipe) == ()
    (note,) = notes_of(resolve(recipe))
    assert str(note).startswith("data.cleaners[2]: is the same as data.cleaners[0]: it looks again")


def test_one_cleaner_with_different_settings_may_stand_twice(write_recipe):
    cleaners = [{"type": "length", "min_words": 3}, {"type": "length", "max_words": 90}]
    recipe = write_recipe(data={"cleaners": cleaners})
    assert check(recipe) == ()
    assert not list(notes_of(resolve(recipe)))
