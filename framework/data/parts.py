"""Recipe -> the datasets of each part of its data, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe

Part = Literal["train", "eval", "test"]


def named_datasets(recipe: Recipe, part: Part) -> dict[str, Dataset]:
    """The datasets of a part by their names."""
    data = recipe.data
    datasets = {"train": data.train, "eval": data.eval, "test": data.test}[part]
    return {one.name or f"{part}{at}": one for at, one in enumerate(datasets)}
