"""Recipe -> the datasets of each part of its data, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from framework.reading.split import SplitSource
from framework.recipe.schema import default_name

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Part, Recipe, Split


def named_datasets(recipe: Recipe, part: Part) -> dict[str, Dataset]:
    """The datasets of a part by their names; rows that `data.split` holds out keep theirs."""
    datasets: dict[str, Dataset] = {}
    for key, dataset in recipe.data.datasets_of(part).items():
        name = dataset.name or default_name(key)
        of_train = key.startswith("data.train[")
        datasets[name] = _side(dataset, recipe.data.split, part) if of_train else dataset
    return datasets


def _side(dataset: Dataset, split: Split | None, part: Part) -> Dataset:
    """What a part has of a dataset of `data.train`."""
    if split is None:
        return dataset
    source = SplitSource(dataset=dataset, split=split, side=part)
    side = replace(dataset, source=source, rows=None)
    return side if part == "train" else replace(side, weight=None, epochs=None)
