"""What two preparations made of rows -> the rows that differ, by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.data.row_hashes import RowHashes, changed_rows
from framework.reading.parts import named_datasets

if TYPE_CHECKING:
    from framework.recipe.schema import Part, Recipe


def row_differences(recipe: Recipe, part: Part, before: RowHashes, now: RowHashes) -> Iterator[str]:
    """A sentence for each dataset of a part that has other rows.

    Args:
        recipe: of the second preparation.
    """
    datasets = named_datasets(recipe, part)
    for changed in changed_rows(before, now):
        place = ""
        if changed.how != "missing" and changed.dataset in datasets:
            file, line = datasets[changed.dataset].source.place(changed.first_row)
            place = f" ({file}:{line})" if line else f" ({file})"
        text = f"row {changed.first_row} of {changed.dataset}{place} is {changed.how}"
        if changed.num_changed > 1:
            of_all = f"{changed.num_changed:,} rows differ, of {changed.num_rows:,}"
            text += f"; it is the first: {of_all}"
        yield text
