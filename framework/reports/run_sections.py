"""Run record -> the parts of its report: headline, curves, data, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from framework.core.evaluation import Evaluation, paired
from framework.core.metrics import EVALUATION, trainer_metrics
from framework.reports.curves import (
    Curve,
    Series,
    histogram_chart,
    line_chart,
    series_of,
    wants_log_scale,
)
from framework.reports.quantities import (
    bytes_text,
    count_text,
    duration_text,
    gibibytes_text,
    loss_text,
    rate_text,
    share_text,
    short_count,
)
from framework.reports.run_record import PreparedPart, RunRecord, SeenSamples, Setting

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_IDS = 200
"""Row ids shown of each kind; the run directory has more of them."""
MOST_CHARACTERS = 2000
"""Of a text shown; a model that repeats itself fills no page."""
NUM_STEEPEST = 5


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the headline."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric before and after training, each a share or any number."""

    metric: str
    before: float | None
    after: float | None
    num_answers: int

    @property
    def is_share(self) -> bool:
        """Whether a bar from 0 to 1 says what it is."""
        return all(0 <= value <= 1 for value in (self.before, self.after) if value is not None)

    @property
    def rose(self) -> bool:
        """Whether both are known and training made it larger."""
        return self.before is not None and self.after is not None and self.after > self.before

    def text(self, value: float | None) -> str:
        """The number, or a dash."""
        if value is None:
            return "–"  # noqa: RUF001 - a dash
        return share_text(value) if self.is_share else loss_text(value)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A titled drawing."""

    title: str
    svg: Markup
    note: str = ""
    narrow_svg: Markup | None = None
    """The same for a phone, where the drawing is wide."""


@dataclass(frozen=True, kw_only=True)
class SteepStep:
    """A step with one of the largest gradients, and the rows that it saw."""

    step: int
    grad_norm: float
    loss: float | None
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PartSection:
    """The numbers of one part of the data."""

    part: PreparedPart
    histogram: Markup | None


# ---- headline


def headline(record: RunRecord) -> str:
    """`lora · sft · ./model · train.jsonl`: what was trained, as far as it is known."""
    words = (
        record.value("adapter.type"),
        record.value("trainer.type"),
        _source(record, "model.source"),
        _source(record, "data.train[0].source"),
    )
    return " · ".join(word for word in words if word)


def _source(record: RunRecord, key: str) -> str:
    """The last part of a path or name; a component writes one of these."""
    for name in ("path", "name", "repo", "package"):
        value = record.value(f"{key}.{name}")
        if value not in {"", "none"}:
            return PurePath(value).name or value
    return record.value(key)


def tiles(record: RunRecord) -> tuple[Tile, ...]:
    """The numbers of the headline that the record has."""
    return tuple(
        tile
        for tile in (
            _steps_tile(record),
            _time_tile(record),
            _speed_tile(record),
            _loss_tile("training loss", series_of(record.metrics, "loss")),
            _loss_tile("evaluation loss", series_of(record.metrics, "eval_loss")),
            _memory_tile(record),
            _parameters_tile(record),
        )
        if tile is not None
    )


def _steps_tile(record: RunRecord) -> Tile | None:
    steps = series_of(record.metrics, "loss").steps
    number = record.number("num_steps")
    if number is None and not steps:
        return None
    epochs = series_of(record.metrics, "epoch").values
    note = f"{max(epochs):.2f} epochs" if epochs else ""
    return Tile(
        label="optimizer steps",
        value=count_text(steps[-1] if number is None else number),
        note=note,
    )


def _time_tile(record: RunRecord) -> Tile | None:
    seconds = record.number("training_seconds")
    if seconds is None:
        return None
    note = "in optimizer steps"
    steps, planned = record.number("num_steps"), record.planned_step_seconds
    if planned is not None and steps:
        fast, slow = (duration_text(one * steps) for one in planned)
        note += f"; planned {fast} to {slow} by their products"
    return Tile(label="training time", value=duration_text(seconds), note=note)


def _speed_tile(record: RunRecord) -> Tile | None:
    seconds = record.number("training_seconds")
    tokens = series_of(record.metrics, "num_tokens").values
    trained = series_of(record.metrics, "num_trained_tokens").values
    note = f"{short_count(tokens[-1])} tokens" if tokens else ""
    if tokens and trained:
        note += f", {share_text(trained[-1] / max(tokens[-1], 1))} trained"
    if tokens and seconds:
        return Tile(label="tokens per second", value=short_count(tokens[-1] / seconds), note=note)
    speeds = series_of(record.metrics, "tokens_per_second").values
    if not speeds:
        return None
    middle = sorted(speeds)[len(speeds) // 2]
    return Tile(label="tokens per second", value=short_count(middle), note=note)


def _loss_tile(label: str, series: Series) -> Tile | None:
    if not series:
        return None
    first, last = series.values[0], series.values[-1]
    if len(series.values) == 1:
        return Tile(label=label, value=loss_text(last), note=f"at step {series.steps[0]:,.0f}")
    value = f"{loss_text(first)} → {loss_text(last)}"
    return Tile(label=label, value=value, note=f"lowest {_lowest(series)}")


def _memory_tile(record: RunRecord) -> Tile | None:
    planned = record.planned_bytes
    expected = "" if planned is None else f"; planned {bytes_text(planned)} of tensors"
    on_device = series_of(record.metrics, "peak_device_bytes").values
    if on_device:
        note = f"on the main process's device{expected}"
        return Tile(label="peak memory", value=bytes_text(max(on_device)), note=note)
    peaks = series_of(record.metrics, "peak_rss_bytes").values
    if not peaks:
        return None
    start = record.environment.get("rss_at_start_bytes")
    growth = ""
    if planned is not None and isinstance(start, int):
        grown = bytes_text(max(peaks) - start)
        growth = f", {grown} more than at its start with what libraries take"
    note = f"of the main process{growth}{expected}"
    return Tile(label="peak memory", value=bytes_text(max(peaks)), note=note)


def _parameters_tile(record: RunRecord) -> Tile | None:
    trained = record.number("num_trained_parameters")
    total = record.number("num_parameters")
    if trained is None or not total:
        return None
    note = f"{share_text(trained / total)} of {short_count(total)}"
    return Tile(label="trained parameters", value=short_count(trained), note=note)


def changes(record: RunRecord) -> tuple[Change, ...]:
    """Each evaluator's number before and after."""
    return tuple(_change(before, after) for before, after in paired(record.before, record.after))


def _change(before: Evaluation | None, after: Evaluation | None) -> Change:
    shown = after or before
    assert shown is not None
    return Change(
        metric=shown.metric,
        before=before.value if before else None,
        after=after.value if after else None,
        num_answers=len(shown.answers),
    )


# ---- curves


def charts(record: RunRecord) -> tuple[Chart, ...]:
    """A drawing for every quantity that was logged."""
    loss, eval_loss = (series_of(record.metrics, name) for name in ("loss", "eval_loss"))
    found: list[Chart] = []
    if loss or eval_loss:
        found.append(_loss_chart(loss, eval_loss))
    for title, name, tick_text in (
        ("Learning rate", "learning_rate", rate_text),
        ("Gradient norm", "grad_norm", loss_text),
        ("Tokens per second", "tokens_per_second", short_count),
        ("Peak memory", "peak_rss_bytes", gibibytes_text),
    ):
        series = series_of(record.metrics, name)
        if not series:
            continue
        log_scale = name == "grad_norm" and wants_log_scale(series)
        # The mean of a spike is a plateau that never was.
        smooth = name in {"grad_norm", "tokens_per_second"} and not log_scale
        curve = Curve(series=series, smooth=smooth)
        notes = (f"last {tick_text(series.values[-1])}", "logarithmic" if log_scale else "")
        found.append(
            Chart(
                title=title,
                svg=line_chart(title, [curve], tick_text=tick_text, log_scale=log_scale),
                note=", ".join(filter(None, (*notes, _not_finite(series)))),
            )
        )
    return (*found, *_own_charts(record))


def _own_charts(record: RunRecord) -> Iterator[Chart]:
    """The trainer's own metrics, in training and on held-out data."""
    names = {name: None for row in record.metrics for name in trainer_metrics(row)}
    for name in dict.fromkeys(name.removeprefix(EVALUATION) for name in names):
        training = series_of(record.metrics, name)
        held_out = series_of(record.metrics, EVALUATION + name)
        curves = [Curve(series=training, smooth=True)] if training else []
        curves += [Curve(series=held_out, color=1, markers=True)] if held_out else []
        if not curves:
            continue
        title = name.replace("_", " ").capitalize()
        notes = [f"last {loss_text(training.values[-1])}" if training else ""]
        notes.append(f"last evaluation {loss_text(held_out.values[-1])}" if held_out else "")
        svg = line_chart(title, curves)
        yield Chart(title=title, svg=svg, note=", ".join(filter(None, notes)))


def _loss_chart(loss: Series, eval_loss: Series) -> Chart:
    curves = []
    if loss:
        curves.append(Curve(series=loss, smooth=True))
    if eval_loss:
        curves.append(Curve(series=eval_loss, color=1, markers=True))
    lowest = f"lowest evaluation loss {_lowest(eval_loss)}" if eval_loss else ""
    notes = (lowest, _not_finite(loss))
    return Chart(
        title="Loss",
        svg=line_chart("Loss", curves, width=880, height=260),
        narrow_svg=line_chart("Loss, narrow", curves),
        note=", ".join(filter(None, notes)),
    )


def _lowest(series: Series) -> str:
    place = min(range(len(series.values)), key=series.values.__getitem__)
    return f"{loss_text(series.values[place])} at step {series.steps[place]:,.0f}"


def _not_finite(series: Series) -> str:
    number = series.num_not_finite
    return f"{number:,} logged values are not numbers and not drawn" if number else ""


def steepest_steps(record: RunRecord) -> tuple[SteepStep, ...]:
    """The steps with the largest gradients: where odd rows are found first."""
    norms, losses = series_of(record.metrics, "grad_norm"), series_of(record.metrics, "loss")
    if len(norms.steps) <= NUM_STEEPEST:
        return ()
    by_size = sorted(zip(norms.values, norms.steps, strict=True), reverse=True)[:NUM_STEEPEST]
    seen = record.samples({int(step) for _, step in by_size})
    loss_at = dict(zip(losses.steps, losses.values, strict=True))
    return tuple(
        SteepStep(
            step=int(step),
            grad_norm=norm,
            loss=loss_at.get(step),
            ids=seen.get(int(step), SeenSamples()).ids,
        )
        for norm, step in by_size
    )


def part_sections(record: RunRecord) -> tuple[PartSection, ...]:
    """Each part of the data with its lengths drawn."""
    return tuple(
        PartSection(
            part=part,
            histogram=histogram_chart(f"Lengths of {part.name}", part.edges, part.counts)
            if part.counts
            else None,
        )
        for part in record.parts
    )


# ---- text


def clipped(text: str) -> str:
    """A text of a length that a page can show."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} … and {len(text) - MOST_CHARACTERS:,} more characters"


def short_origin(setting: Setting) -> str:
    """`recipe.yaml:5:13`: the origin without the folder."""
    place, comma, rest = setting.origin.partition(", from ")
    return PurePath(place).name + comma + rest


def flattened(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A nested mapping's leaves as (dotted name, text)."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return tuple(found)
