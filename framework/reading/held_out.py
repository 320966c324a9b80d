"""Recipe -> the samples that are held out of training, for cleaners that compare with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.cleaning import Finding
from framework.core.samples import NumberedSample, RowError
from framework.reading.parts import named_datasets
from framework.reading.rows import read_samples

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe


def held_out_datasets(recipe: Recipe) -> dict[str, Dataset]:
    """The datasets of eval and test by names that no other dataset of the recipe has."""
    datasets: dict[str, Dataset] = {}
    train = named_datasets(recipe, "train")
    for part in ("eval", "test"):
        for name, dataset in named_datasets(recipe, part).items():
            taken = name in train or name in datasets
            datasets[f"{part}/{name}" if taken else name] = dataset
    return datasets


def held_out_samples(recipe: Recipe) -> Iterator[NumberedSample]:
    """The samples of eval and test; rows that don't fit are told of where their part is prepared.

    Raises:
        UserError: a source can't be read.
    """
    for name, dataset in held_out_datasets(recipe).items():
        for result in read_samples(dataset, name, recipe.data):
            if isinstance(result, NumberedSample):
                yield result


def refusal(finding: Finding, recipe: Recipe) -> RowError:
    """What a finding that ends the preparation says, with the file and line of the other row."""
    what = finding.reason
    if finding.like is not None:
        datasets = {**held_out_datasets(recipe), **named_datasets(recipe, "train")}
        file, line = datasets[finding.like.dataset].source.place(finding.like.row)
        what += f" at {file}:{line}" if line else f" of {file}"
    return RowError(what, finding.hint)
