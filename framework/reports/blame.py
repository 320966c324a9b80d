"""Run directory and step -> the samples that the step saw, worst first, and where they stand."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.cleaning.sample_texts import own_text
from framework.core.atomic import file_sha256
from framework.core.problems import Problem, UserError
from framework.data.preview import visible
from framework.reading.parts import named_datasets
from framework.reading.rows import BadRow, read_samples
from framework.reports.curves import series_of
from framework.reports.quantities import loss_text
from framework.reports.run_record import RunRecord, SeenSamples

if TYPE_CHECKING:
    from rich.console import Console

    from framework.recipe.schema import Recipe

MOST_SAMPLES = 20
"""Samples of a step that are shown."""
MOST_STEPS = 3
"""Steps that `worst_steps` finds."""
MOST_CHARACTERS = 160
NUM_BEFORE = 16
"""Logged steps before one that its numbers are compared with."""
LOCK = "lock.json"


@dataclass(frozen=True, kw_only=True)
class BlamedSample:
    """One sample of a step."""

    identifier: str
    loss: float | None
    """None where it is no number, or was not written down."""
    file: str
    line: int
    """0 where lines mean nothing."""
    text: str
    """The beginning of what the row says, without the system's words."""


@dataclass(frozen=True, kw_only=True)
class BlamedStep:
    """One step and the samples it saw."""

    step: int
    why: str
    """Why it is shown; empty where it was asked for."""
    loss: float | None
    grad_norm: float | None
    num_samples: int
    has_losses: bool
    """Whether the run wrote down what each sample's loss was."""
    samples: tuple[BlamedSample, ...]
    """The worst first, or in the batch's order where there are no losses; `MOST_SAMPLES` of them.
    """


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A step that stands out, and by how much."""

    step: int
    ratio: float
    why: str


def worst_steps(record: RunRecord) -> tuple[Jump, ...]:
    """The steps whose loss or gradient norm rose most over the median of the steps before; first
    those with a sample whose loss is no number."""
    found: dict[int, Jump] = {}
    for name, shown in (("loss", "loss"), ("grad_norm", "gradient norm")):
        series = series_of(record.metrics, name)
        for at in range(1, len(series.values)):
            usual = statistics.median(series.values[max(0, at - NUM_BEFORE) : at])
            step, value = int(series.steps[at]), series.values[at]
            ratio = value / usual if usual > 0 else 0.0
            why = f"{shown} {value:.4g} is {ratio:.1f} times what the steps before had"
            if step not in found or found[step].ratio < ratio:
                found[step] = Jump(step=step, ratio=ratio, why=why)
    for step, seen in record.samples().items():
        if seen.losses is not None and None in seen.losses:
            found[step] = Jump(step=step, ratio=math.inf, why="a loss in it is no number")
    by_size = sorted(found.values(), key=lambda jump: (-jump.ratio, jump.step))
    return tuple(by_size[:MOST_STEPS])


def blame(record: RunRecord, recipe: Recipe, step: int, why: str = "") -> BlamedStep:
    """What step `step`, from 1, saw.

    Raises:
        UserError: the run has no such step.
    """
    seen = record.samples({step}).get(step)
    if seen is None:
        raise UserError(_no_such_step(record, step))
    numbers = next((row for row in record.metrics if _is_of_training(row, step)), {})
    datasets = named_datasets(recipe, "train")
    return BlamedStep(
        step=step,
        why=why,
        loss=numbers.get("loss"),
        grad_norm=numbers.get("grad_norm"),
        num_samples=len(seen.ids),
        has_losses=seen.losses is not None,
        samples=tuple(
            _blamed(identifier, loss, recipe, datasets)
            for identifier, loss in _worst_first(seen)[:MOST_SAMPLES]
        ),
    )


def changed_files(run: Path) -> Iterator[Problem]:
    """Warnings: data files that are no longer what the run read, so that rows may be others."""
    path = run / LOCK
    if not path.is_file():
        return
    for dataset in json.loads(path.read_text(encoding="utf-8"))["data"]["datasets"]:
        for file in dataset["files"] if dataset["key"].startswith("data.train") else ():
            now = Path(file["path"])
            if file["sha256"] and (not now.is_file() or file_sha256(now) != file["sha256"]):
                what = "is no longer the file that the run read; rows may have moved"
                yield Problem(file=file["path"], what=what)


def print_blamed(step: BlamedStep, console: Console) -> None:
    """A table of the step's samples."""
    from rich.table import Table
    from rich.text import Text

    numbers = [
        f"{name} {value:.4g}"
        for name, value in (("loss", step.loss), ("gradient norm", step.grad_norm))
        if value is not None
    ]
    console.print(Text(": ".join(filter(None, [f"step {step.step}", ", ".join(numbers)]))))
    if step.why:
        console.print(Text(f"  {step.why}"))
    table = Table(box=None, pad_edge=False, show_header=True, header_style="")
    for name in ("loss", "sample", "place", "begins with"):
        table.add_column(name, overflow="fold")
    for one in step.samples:
        place = f"{one.file}:{one.line}" if one.line else one.file
        loss = _loss_text(one.loss) if step.has_losses else ""
        table.add_row(*map(Text, (loss, one.identifier, place, one.text)))
    console.print(table)
    rest = step.num_samples - len(step.samples)
    if rest:
        console.print(Text(f"and {rest:,} more" + (" of lower loss" if step.has_losses else "")))
    if not step.has_losses:
        console.print(Text("the run has no loss of each sample: they are in the batch's order"))


def as_json(steps: tuple[BlamedStep, ...]) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [asdict(one) for one in steps]


def _worst_first(seen: SeenSamples) -> list[tuple[str, float | None]]:
    if seen.losses is None:
        return [(identifier, None) for identifier in seen.ids]
    both = list(zip(seen.ids, seen.losses, strict=True))
    return sorted(both, key=lambda one: -math.inf if one[1] is None else -one[1])


def _blamed(
    identifier: str, loss: float | None, recipe: Recipe, datasets: Mapping[str, Any]
) -> BlamedSample:
    name, _, place = identifier.rpartition(":")
    row = int(place.partition("/")[0])
    file, line, text = "", 0, ""
    try:
        file, line = datasets[name].source.place(row)
        found = next(iter(read_samples(datasets[name], name, recipe.data, row)), None)
        if found is None or found.row != row or isinstance(found, BadRow):
            text = "(the row is not there any more, or doesn't fit its format)"
        else:
            text = " ".join(own_text(found.sample)[: 4 * MOST_CHARACTERS].split())
    except UserError as error:
        text = f"(can't be read: {error.problems[0].what})"
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "…"
    return BlamedSample(identifier=identifier, loss=loss, file=file, line=line, text=visible(text))


def _loss_text(loss: float | None) -> str:
    return "not a number" if loss is None else loss_text(loss)


def _is_of_training(row: Mapping[str, Any], step: int) -> bool:
    return row.get("step") == step and "loss" in row


def _no_such_step(record: RunRecord, step: int) -> Problem:
    steps = record.samples()
    what = f"holds no samples of a step {step}"
    hint = f"it has steps 1 to {max(steps)}" if steps else "no step was done"
    return Problem(file=str(record.path / "samples.jsonl"), what=what, hint=hint)
