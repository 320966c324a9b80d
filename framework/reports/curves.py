"""Series of numbers -> inline SVG drawings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.reports.drawing import (
    COLORS,
    TickText,
    bars,
    dots,
    drawing,
    line,
    linear_axis,
    logarithmic_axis,
)
from framework.reports.quantities import loss_text, short_count

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_POINTS = 2000
"""Points of a curve that are drawn; a screen shows fewer."""

_SMOOTHING_SHARE = 0.04
"""Width of the running mean, of the whole curve."""
_FEWEST_TO_SMOOTH = 50
_LOG_SCALE_RATIO = 50.0
"""Largest over median value beyond which a curve would be one spike."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One quantity over the run."""

    steps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    num_not_finite: int = 0
    """Logged values that were NaN or infinite, and are left out."""

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A series and how it is drawn."""

    series: Series
    color: int = 0
    markers: bool = False
    """Points joined by a thin line, for what is measured seldom."""
    smooth: bool = False
    """The values faint, their running mean over them."""


def series_of(rows: Iterable[Mapping[str, Any]], name: str) -> Series:
    """The finite values of a metric over its steps."""
    points = [
        (float(row["step"]), float(row[name]))
        for row in rows
        if isinstance(row.get(name), (int, float)) and isinstance(row.get("step"), (int, float))
    ]
    finite = [point for point in points if math.isfinite(point[1])]
    return Series(
        steps=tuple(step for step, _ in finite),
        values=tuple(value for _, value in finite),
        num_not_finite=len(points) - len(finite),
    )


def thinned(series: Series, most_points: int = MOST_POINTS) -> Series:
    """At most `most_points` of the points: the smallest and largest of each stretch, so that no
    spike is lost."""
    total = len(series.steps)
    if total <= most_points:
        return series
    num_bins = most_points // 2
    kept: list[int] = []
    for number in range(num_bins):
        stretch = range(number * total // num_bins, (number + 1) * total // num_bins)
        ends = {
            min(stretch, key=series.values.__getitem__),
            max(stretch, key=series.values.__getitem__),
        }
        kept += sorted(ends)
    return Series(
        steps=tuple(series.steps[index] for index in kept),
        values=tuple(series.values[index] for index in kept),
        num_not_finite=series.num_not_finite,
    )


def running_mean(series: Series) -> Series:
    """Mean over a window around each point."""
    import numpy as np

    half = max(1, round(len(series.values) * _SMOOTHING_SHARE / 2))
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    places = np.arange(len(series.values))
    first = np.maximum(places - half, 0)
    last = np.minimum(places + half + 1, len(series.values))
    means = (sums[last] - sums[first]) / (last - first)
    return Series(steps=series.steps, values=tuple(means.tolist()))


def wants_log_scale(series: Series) -> bool:
    """Whether a few values are so large that the others would lie on the axis."""
    ordered = sorted(series.values)
    if not ordered or ordered[0] <= 0:
        return False
    return ordered[-1] / ordered[len(ordered) // 2] > _LOG_SCALE_RATIO


def line_chart(
    name: str,
    curves: Sequence[Curve],
    *,
    width: int = 420,
    height: int = 210,
    tick_text: TickText = loss_text,
    log_scale: bool = False,
) -> Markup:
    """Curves over the steps.

    Args:
        name: what a screen reader says.
        width, height: in pixels, before the page scales the drawing.
        log_scale: for positive values only.
    """
    values = [value for curve in curves for value in curve.series.values]
    steps = [step for curve in curves for step in curve.series.steps]
    return drawing(
        name,
        width,
        height,
        linear_axis(steps, short_count, margins=(0.01, 0.01), most_ticks=6, whole=True),
        logarithmic_axis(values, tick_text, margin=0.08, most_ticks=5)
        if log_scale
        else linear_axis(values, tick_text, margins=(0.08, 0.08), most_ticks=5),
        lambda x, y: (shape for curve in curves for shape in _drawn(curve, x, y)),
    )


def histogram_chart(
    name: str, edges: Sequence[float], counts: Sequence[float], *, width: int = 420
) -> Markup:
    """Bars between the edges."""
    boxes = list(zip(itertools.pairwise(edges), counts, strict=True))
    return drawing(
        name,
        width,
        180,
        linear_axis(edges, short_count, margins=(0.01, 0.01), most_ticks=6, whole=True),
        linear_axis([0, max(1, *counts)], short_count, margins=(0, 0.05), most_ticks=5, whole=True),
        lambda x, y: [bars(((x(a), y(one), x(b), y(0)) for (a, b), one in boxes), COLORS[0])],
    )


def _drawn(curve: Curve, x: Callable[[float], float], y: Callable[[float], float]) -> Iterator[str]:
    """Elements of a curve; `x` and `y` give the pixels of a step and of a value."""

    def points(series: Series) -> list[tuple[float, float]]:
        return [(x(step), y(one)) for step, one in zip(series.steps, series.values, strict=True)]

    color = COLORS[curve.color]
    smooth = curve.smooth and len(curve.series.steps) >= _FEWEST_TO_SMOOTH
    shown = points(thinned(curve.series))
    if smooth:
        yield line(shown, color, 0.8, 0.35)
        yield line(points(thinned(running_mean(curve.series), MOST_POINTS // 4)), color, 1.9, 1)
    else:
        yield line(shown, color, 1.4, 1)
    # A single point has no line to show it.
    if curve.markers or len(shown) == 1:
        yield dots(shown, color, 2)
