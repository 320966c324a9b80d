"""Rows that `data.split` put on each side -> what is far from the parts that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.reading.split import SplitSource

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Part, Split

MOST_DEVIATION = 0.5
"""Of the part that is asked for; of so much, and a row or more, a user is warned."""


def far_parts(split: Split, sources: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """A warning for each held-out part of a dataset that is much larger or smaller than asked.

    Args:
        sources: dataset -> `SplitSource.tally()` after all rows were read.
    """
    asked_parts = {"eval": split.eval, "test": split.test}
    for name, tally in sources.items():
        if "num_eval_rows" not in tally:
            continue
        num_rows = sum(tally[f"num_{side}_rows"] for side in ("train", "eval", "test"))
        for side, asked in asked_parts.items():
            held_out = tally[f"num_{side}_rows"]
            off = abs(held_out - asked * num_rows)
            if off >= 1 and off > MOST_DEVIATION * asked * num_rows:
                yield (
                    f"data.split holds out {held_out / num_rows:.1%} of {name} for {side} "
                    f"({held_out:,} of {num_rows:,} rows), asked were {asked:.1%}; "
                    f"{_cause(split, tally)}"
                )


def empty_part(part: Part, datasets: Mapping[str, Dataset]) -> Problem | None:
    """Why no row of the part was read, when the split is the cause.

    Args:
        datasets: those of the part, after all rows were read.
    """
    for name, dataset in datasets.items():
        source = dataset.source
        if not isinstance(source, SplitSource):
            continue
        tally = source.tally()
        num_rows = sum(tally[f"num_{side}_rows"] for side in ("train", "eval", "test"))
        if num_rows and not tally[f"num_{part}_rows"]:
            cause = _cause(source.split, tally)
            return Problem(
                key="data.split",
                what=f"leaves none of the {num_rows:,} rows of {name} to {part}: {cause}",
                hint=_remedy(source.split, part),
            )
    return None


def _cause(split: Split, tally: Mapping[str, int]) -> str:
    if not split.key:
        within = f" of each class of {split.stratify!r}" if split.stratify else ""
        return f"the parts{within} are rounded to whole rows"
    columns = ", ".join(split.key)
    num_values = tally.get("num_key_values")
    if num_values is None:
        return f"rows with the same key [{columns}] stay together"
    values = "value" if num_values == 1 else "values"
    return (
        f"its key [{columns}] has {num_values:,} {values}, and rows with the same one stay together"
    )


def _remedy(split: Split, part: Part) -> str:
    smaller_or_larger = "smaller `eval` and `test`" if part == "train" else f"a larger `{part}`"
    if split.key:
        return (
            f"write a key with more values, {smaller_or_larger} or another `seed`, or remove "
            "`key`: then rows are drawn one by one"
        )
    return f"write {smaller_or_larger}" + (", or remove `stratify`" if split.stratify else "")
