"""Series of numbers -> inline SVG drawings whose colors follow the page."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.reports.quantities import loss_text, short_count

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

MOST_POINTS = 2000
"""Points of a curve that are drawn; a screen shows fewer."""

_SMOOTHING_SHARE = 0.04
"""Width of the running mean, of the whole curve."""
_FEWEST_TO_SMOOTH = 50
_LOG_SCALE_RATIO = 50.0
"""Largest over median value beyond which a curve would be one spike."""

_INK, _GRID = "#0b0c01", "#0b0c02"
_SERIES = ("#0b0c03", "#0b0c04")
_PAGE_COLORS = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _SERIES[0]: "var(--accent)",
    _SERIES[1]: "var(--second)",
}
"""Colors that nothing else uses, drawn by matplotlib -> what the page's style makes of them."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 8, 24
"""Margins around the axes in pixels, for labels of about nine characters."""

TickText = Callable[[float], str]


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
        name: unique in the page, and what a screen reader says.
        width, height: in pixels, before the page scales the drawing.
    """

    def draw(axes: Axes) -> None:
        for curve in curves:
            _draw(axes, curve)
        if log_scale:
            axes.set_yscale("log")
        axes.margins(x=0.01, y=0.08)
        _label_ticks(axes, tick_text)

    return _svg(name, width, height, draw)


def histogram_chart(
    name: str, edges: Sequence[float], counts: Sequence[float], *, width: int = 420
) -> Markup:
    """Bars between the edges."""

    def draw(axes: Axes) -> None:
        widths = [right - left for left, right in itertools.pairwise(edges)]
        axes.bar(
            edges[:-1],
            counts,
            width=widths,
            align="edge",
            color=_SERIES[0],
            edgecolor=_GRID,
            linewidth=0.5,
        )
        axes.margins(x=0.01)
        _label_ticks(axes, short_count)

    return _svg(name, width, 180, draw)


def _draw(axes: Axes, curve: Curve) -> None:
    color = _SERIES[curve.color]
    whole, shown = curve.series, thinned(curve.series)
    if curve.markers:
        axes.plot(shown.steps, shown.values, color=color, linewidth=1.4, marker="o", markersize=3.5)
        return
    smooth = curve.smooth and len(whole.steps) >= _FEWEST_TO_SMOOTH
    # A single point has no line to show it.
    marker = "o" if len(shown.steps) == 1 else ""
    axes.plot(
        shown.steps,
        shown.values,
        color=color,
        linewidth=0.8 if smooth else 1.4,
        alpha=0.35 if smooth else 1.0,
        marker=marker,
        markersize=4,
    )
    if smooth:
        mean = thinned(running_mean(whole), MOST_POINTS // 4)
        axes.plot(mean.steps, mean.values, color=color, linewidth=1.9)


def _label_ticks(axes: Axes, tick_text: TickText) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _svg(name: str, width: int, height: int, draw: Callable[[Axes], None]) -> Markup:
    import matplotlib as mpl
    from markupsafe import Markup, escape
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,  # ids that no other drawing in the page has
            "font.size": 10.5,
            "text.color": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.edgecolor": _GRID,
            "grid.color": _GRID,
            "grid.linewidth": 0.7,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "xtick.minor.size": 0,
            "ytick.minor.size": 0,
        }
    ):
        figure = Figure(figsize=(width / 72, height / 72))
        # Fixed: to fit them to the labels, everything would be drawn three times.
        figure.subplots_adjust(
            left=_LEFT / width,
            right=1 - _RIGHT / width,
            top=1 - _TOP / height,
            bottom=_BOTTOM / height,
        )
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
    return Markup(_for_a_page(stream.getvalue(), str(escape(name))))  # noqa: S704 - our SVG


def _for_a_page(svg: str, label: str) -> str:
    """The drawing without what only a file needs."""
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    svg = svg[svg.index(">") + 1 :]
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' d="[^"]*"', _rounded, svg)
    for drawn, wanted in _PAGE_COLORS.items():
        svg = svg.replace(drawn, wanted)
    return f'<svg {view_box.group()} role="img" aria-label="{label}">{svg}'


def _rounded(path: re.Match[str]) -> str:
    """A path to a hundredth of a pixel, on one line."""
    return " ".join(re.sub(r"(\.\d\d)\d+", r"\1", path.group()).split("\n"))
