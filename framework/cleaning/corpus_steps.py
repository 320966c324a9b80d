"""The steps of a datatrove pipeline that cleans a dataset: read, clean, write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from framework.cleaning.passes import Cleaning
from framework.cleaning.sample_rows import row_of
from framework.core.cleaning import Finding
from framework.core.problems import Problem, UserError
from framework.core.samples import NumberedSample, RowError
from framework.models.quiet import quiet_imports
from framework.reading.held_out import held_out_samples, refusal
from framework.reading.parts import named_datasets
from framework.reading.rows import BadRow, read_samples, row_problem

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

MOST_PROBLEMS = 20
"""Rows at fault that a task tells of in full; the rest are counted."""
PROBLEMS, COUNTS = "problems.json", "counts.json"
"""What a task leaves beside its cleaners' lists."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is cleaned, and where the lists of what is found go."""

    recipe: Recipe
    name: str
    """Of the training dataset."""
    folder: Path
    """What its tasks found is listed there."""

    def findings(self, rank: int) -> Path:
        """The folder in which a task lists what it found."""
        return self.folder / f"{rank:05d}"


class QuietExecutor(LocalPipelineExecutor):
    """Runs tasks on this machine whose course is logged in files; errors are shown as well."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        # Of all but the first at a time, datatrove shows errors alone.
        return super()._run_for_rank(rank, local_rank + 1, node_rank)


class CleanSamples(PipelineStep):
    """Reads every `world_size`-th row of a dataset and yields what its cleaners leave of them."""

    type = "CLEANER"
    name = "recipe"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """See `datatrove.pipeline.base.PipelineStep`; `data` is nothing, as this step reads."""
        quiet_imports()  # a task may be a process of its own
        # Errors are shown by datatrove; what it adds is removed with this when the task ends.
        logger.add(sys.stderr, level="WARNING", filter=lambda one: one["level"].name == "WARNING")
        share = _Share(self.work, rank, world_size)
        for numbered in share.cleaned():
            self.stat_update("rows")
            text = json.dumps(row_of(numbered.sample), ensure_ascii=False)
            yield Document(text=text, id=f"{numbered.dataset}:{numbered.row}")


class WriteLines(DiskWriter):
    """Writes each document's text as a line of the task's file."""

    default_output_filename = "${rank}.jsonl"
    name = "lines"

    def _write(self, document: dict[str, Any], file_handler: IO[str], filename: str) -> None:
        file_handler.write(document["text"] + "\n")


class _Share:
    """One task's rows, and what was found in them."""

    def __init__(self, work: Work, rank: int, world_size: int) -> None:
        self._work = work
        self._rank, self._world_size = rank, world_size
        self._dataset = named_datasets(work.recipe, "train")[work.name]
        self._problems: list[Problem] = []
        self._num_more_problems = 0
        self._counts = {"num_rows": 0, "num_skipped_rows": 0, "num_kept_rows": 0}
        self._folder = work.findings(rank)
        self._sample_type = ""

    def cleaned(self) -> Iterator[NumberedSample]:
        recipe = self._work.recipe
        self._folder.mkdir(parents=True, exist_ok=True)
        data = recipe.data
        cleaning = Cleaning(
            data.cleaners, lambda: held_out_samples(recipe), self._folder, dry_run=data.dry_run
        )
        try:
            for numbered in cleaning(self._samples(), self._refused):
                self._counts["num_kept_rows"] += 1
                self._sample_type = type(numbered.sample).__name__
                yield numbered
        except UserError as error:
            self._problems += error.problems
        finally:
            cleaning.close()
        if self._num_more_problems:
            what = f"and {self._num_more_problems:,} more rows of {self._work.name}"
            if self._world_size > 1:
                what += f", in task {self._rank}"
            self._problems.append(Problem(what=what))
        counts = {**self._counts, "sample_type": self._sample_type, "cleaners": cleaning.counts()}
        _write_json(self._folder / PROBLEMS, [one.as_json() for one in self._problems])
        _write_json(self._folder / COUNTS, counts)

    def _samples(self) -> Iterator[NumberedSample]:
        data = self._work.recipe.data
        for at, result in enumerate(read_samples(self._dataset, self._work.name, data)):
            if at % self._world_size != self._rank:
                continue
            self._counts["num_rows"] += 1
            if isinstance(result, NumberedSample):
                yield result
            elif data.on_bad_row == "skip":
                self._counts["num_skipped_rows"] += 1
            else:
                self._problem(result)

    def _refused(self, numbered: NumberedSample, finding: Finding) -> None:
        listed = len(self._problems) < MOST_PROBLEMS  # finding the other row's line takes time
        error = refusal(finding, self._work.recipe) if listed else RowError(finding.reason)
        self._problem(BadRow(row=numbered.row, error=error))

    def _problem(self, bad: BadRow) -> None:
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(row_problem(self._dataset, bad))
        else:
            self._num_more_problems += 1


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
