"""Rows of any format that can be told by its columns -> samples; the first row decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from framework.core.problems import Problem, UserError
from framework.core.protocols.data import Local
from framework.core.recognition import Recognition, recognitions
from framework.core.registries import registry
from framework.core.samples import Preference, Row, RowError, Sample, UnpairedPreference
from framework.reading.rows import decided_format, first_row
from framework.recipe.constraints import unfit_format

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Finds the format by the first row's columns, says which and why, and keeps to it.

    Refuses where several formats fit, or none. `framework check` looks into files already; what
    the Hub holds is looked at when it is prepared.
    """

    produces: ClassVar[Any] = Sample

    def decide(self, row: Row) -> Recognition:
        """
        Raises:
            RowError: several formats fit, naming each, or none.
        """
        found = recognitions(row)
        if len(found) == 1:
            return found[0]
        if not found:
            raise RowError(
                f"no format knows a row with the columns {', '.join(map(str, row)) or '(none)'}",
                "write one of `framework list formatters` as `format:`, and its columns as "
                "`columns: {ITS NAME: YOUR NAME}`",
            )
        reasons = "; ".join(f"{one.name}, as {one.reason}" for one in found)
        lines = " or ".join(f"`format: {one.name}`" for one in found)
        raise RowError(f"{len(found)} formats fit: {reasons}", f"write {lines}")

    def __call__(self, row: Row) -> Sample:
        """The row by the format that it decides on, whatever other rows do.

        Raises:
            RowError: no single format fits, or the row does not fit it after all.
        """
        return self.decide(row).format(row)

    def check(self, recipe: Recipe) -> Iterator[Problem]:
        """One format must fit, and the trainer must learn from what it makes."""
        for part, key, dataset in self._datasets(recipe):
            if not _is_readable(dataset):
                continue
            try:
                found = decided_format(dataset)
            except UserError as error:
                for problem in error.problems:
                    what = f"{problem.file}:{problem.line}: {problem.what}"
                    yield Problem(key=key, what=what, hint=problem.hint)
                continue
            if part == "test":
                continue
            for problem in unfit_format(key, found.format, recipe):
                what = f"auto finds {found.name}, as {found.reason}: {problem.what}"
                yield replace(problem, what=what, hint=_hint(problem, found, recipe))

    def notes(self, recipe: Recipe) -> Iterator[Problem]:
        """Which format was found, and why."""
        for _, key, dataset in self._datasets(recipe):
            if not _is_readable(dataset):
                what = "auto can't look at the first row yet: the format is found when it is read"
                yield Problem(key=key, what=what)
                continue
            found = decided_format(dataset)
            yield Problem(key=key, what=f"auto finds {found.name}, as {found.reason}")

    def _datasets(self, recipe: Recipe) -> Iterator[tuple[str, str, Dataset]]:
        """(part, key, dataset) of those whose format this is."""
        data = recipe.data
        for part, datasets in (("train", data.train), ("eval", data.eval), ("test", data.test)):
            for index, dataset in enumerate(datasets):
                if dataset.format is self:
                    yield part, f"data.{part}[{index}].format", dataset


def _is_readable(dataset: Dataset) -> bool:
    """Whether there is a first row on this machine; why there is none, its source says."""
    if not isinstance(dataset.source, Local):
        return False
    try:
        return first_row(dataset) is not None
    except UserError:
        return False


def _hint(problem: Problem, found: Recognition, recipe: Recipe) -> str:
    """What the problem says, or a format beside the found one of which the trainer can learn.

    What stands beside preferences is only the prompt's part of a row, never a whole sample.
    """
    kind = registry("formatters")
    others = [
        f"`format: {name}`"
        for name in found.others
        if found.format.produces not in (Preference, UnpairedPreference)
        and not any(unfit_format("", kind.get(name)(), recipe))
    ]
    if "completion" in found.others and not others:
        alone = "write `format: completion` and `trainer: {type: pretrain}`"
        return f"{problem.hint}; to train on the text alone, {alone}"
    return f"write {' or '.join(others)}, or {problem.hint}" if others else problem.hint
