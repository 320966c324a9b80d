"""Recipe -> the folder of the model that its trainer compares with, if it names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from framework.core.problems import Problem, UserError, moved
from framework.core.protocols.training import Comparing

if TYPE_CHECKING:
    from framework.data.prepared import PreparedData
    from framework.recipe.schema import Recipe

Found = TypeVar("Found")


def fetch_reference(recipe: Recipe, data: PreparedData) -> Path | None:
    """The other model's folder; None where the trainer needs none, or compares with its own past.

    Args:
        data: its tokenizer is that of the model that is trained.

    Raises:
        UserError: the model can't be fetched, or its tokens have other ids.
    """
    method = recipe.trainer.method
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if comparison is None or comparison.source is None:
        return None
    from framework.models.tokenizer import load_tokenizer
    from framework.recipe.schema import Tokenizer

    key = comparison.source_key
    folder = under_key(key, comparison.source.fetch)
    other = under_key(key, lambda: load_tokenizer(folder, Tokenizer()))
    difference = _difference(other.get_vocab(), data.tokenizer.get_vocab())
    if difference:
        raise UserError(
            Problem(
                key=key,
                what=f"its tokenizer is not the one of model.source: {difference}",
                hint="both models must give the same tokens the same ids, as models of one family "
                "do; answers that the other model wrote can be learned with `type: sft`",
            )
        )
    return folder


def under_key(key: str, call: Callable[[], Found]) -> Found:
    """What `call` returns; what it says of `model.source` is said of `key`."""
    try:
        return call()
    except UserError as error:
        raise type(error)([moved(one, "model.source", key) for one in error.problems]) from error


def _difference(theirs: dict[str, int], ours: dict[str, int]) -> str:
    """What differs between two vocabularies, empty when nothing does."""
    different = [token for token in {*theirs, *ours} if theirs.get(token) != ours.get(token)]
    if not different:
        return ""
    first = min(different, key=lambda token: (ours.get(token, len(ours)), token))

    def place(vocabulary: dict[str, int]) -> str:
        return f"has id {vocabulary[first]}" if first in vocabulary else "is no token"

    return (
        f"{first!r} {place(theirs)} there and {place(ours)} here, "
        f"one of {len(different):,} differences"
    )
