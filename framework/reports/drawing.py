"""Two axes and what is drawn between them -> an inline SVG drawing in the page's colors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

COLORS = ("var(--accent)", "var(--second)")
LINE, TEXT = "var(--line)", "var(--muted)"
"""What the page's style calls its colors."""
TickText = Callable[[float], str]

_FONT_SIZE, _DIGIT_WIDTH = 10.5, 6.1
"""In pixels; of the widest usual font."""
_TOP, _BELOW, _GAP = 7.0, 19.0, 5.0
"""Room above the axes, below them for labels, and between labels and axes, in pixels."""
_LARGEST = 1e300
"""So that differences of two numbers are finite."""
_SAME = 1e-9
"""Differences, in relation to the numbers, of which no axis is made."""
_STEPS, _WHOLE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0), (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows, from its first number to its last."""

    low: float
    high: float
    ticks: tuple[float, ...]
    text: TickText
    is_logarithmic: bool = False

    def share(self, number: float) -> float:
        """Where a number is: 0 at the beginning, 1 at the end."""
        low, high, place = (
            (math.log10(one) for one in (self.low, self.high, number))
            if self.is_logarithmic
            else (self.low, self.high, max(-_LARGEST, min(number, _LARGEST)))
        )
        return (place - low) / (high - low)


Shapes = Callable[[Callable[[float], float], Callable[[float], float]], Iterable[str]]
"""(Pixel of a number on the first axis, of one on the second) -> SVG elements."""


def linear_axis(
    numbers: Sequence[float],
    text: TickText,
    *,
    margins: tuple[float, float],
    most_ticks: int,
    whole: bool = False,
) -> Axis:
    """An axis that shows all the numbers.

    Args:
        margins: what it is longer at its beginning and its end, as shares of their range.
        whole: labels are whole numbers.
    """
    low, high = (max(-_LARGEST, min(one, _LARGEST)) for one in (min(numbers), max(numbers)))
    size = max(abs(low), abs(high))
    if high - low <= max(_SAME * size, 1 / _LARGEST):
        around = max(0.05 * size, 1 / _LARGEST) if size else 0.5
        low, high = low - around, high + around
    length = high - low
    low, high = low - margins[0] * length, high + margins[1] * length
    step = _step((high - low) / most_ticks, whole)
    numbered = range(math.ceil(low / step - _SAME), math.floor(high / step + _SAME) + 1)
    ticks = tuple(number * step for number in numbered)
    return Axis(low=low, high=high, ticks=ticks, text=text)


def logarithmic_axis(
    numbers: Sequence[float], text: TickText, *, margin: float, most_ticks: int
) -> Axis:
    """The same for positive numbers of several magnitudes, labelled at powers of ten."""
    logs = [math.log10(one) for one in (min(numbers), max(numbers))]
    low, high = (logs[0] - margin * (logs[1] - logs[0]), logs[1] + margin * (logs[1] - logs[0]))
    powers = range(math.ceil(low), math.floor(high) + 1)
    every = max(1, math.ceil(len(powers) / most_ticks))
    ticks = tuple(10.0**power for power in powers[::every])
    return Axis(low=10.0**low, high=10.0**high, ticks=ticks, text=text, is_logarithmic=True)


def _step(least: float, whole: bool) -> float:
    """The smallest round number that is not less."""
    magnitude = 10.0 ** math.floor(math.log10(least))
    if whole and magnitude < 1:
        return 1.0
    steps = _WHOLE_STEPS if whole else _STEPS
    return magnitude * next((one for one in steps if one * magnitude >= least), steps[-1])


def drawing(name: str, width: int, height: int, x: Axis, y: Axis, shapes: Shapes) -> Markup:
    """Axes with their labels and lines, and what is drawn over them.

    Args:
        name: what a screen reader says.
        width, height: in pixels, before the page scales it.
    """
    from markupsafe import Markup, escape

    across, up = ([(one, axis.text(one)) for one in axis.ticks] for axis in (x, y))
    left = max((len(text) for _, text in up), default=0) * _DIGIT_WIDTH + 2 * _GAP
    right = width - max((len(text) for _, text in across), default=0) * _DIGIT_WIDTH / 2 - 1
    bottom = height - _BELOW

    def at_x(number: float) -> float:
        return left + x.share(number) * (right - left)

    def at_y(number: float) -> float:
        return bottom - y.share(number) * (bottom - _TOP)

    grid = "".join(f"M{left:.2f} {at_y(one):.2f}H{right:.2f}" for one, _ in up)
    beside = (
        _text(left - _GAP, at_y(one) + 0.36 * _FONT_SIZE, str(escape(text))) for one, text in up
    )
    below = (_text(at_x(one), height - _GAP, str(escape(text))) for one, text in across)
    parts = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">',
        _path(grid, f"stroke: {LINE}; stroke-width: 0.7"),
        *shapes(at_x, at_y),
        _path(f"M{left:.2f} {bottom:.2f}H{right:.2f}", f"stroke: {LINE}; stroke-width: 0.8"),
        f'<g style="font-size: {_FONT_SIZE}px; fill: {TEXT}; text-anchor: end">',
        *beside,
        f'</g>\n<g style="font-size: {_FONT_SIZE}px; fill: {TEXT}; text-anchor: middle">',
        *below,
        "</g>\n</svg>",
    )
    return Markup("\n".join(parts))  # noqa: S704 - our SVG


def line(points: Iterable[tuple[float, float]], color: str, width: float, opacity: float) -> str:
    """Points in pixels, joined by a line."""
    places = "L".join(f"{x:.2f} {y:.2f}" for x, y in points)
    style = f"fill: none; stroke: {color}; stroke-width: {width}; stroke-linejoin: round"
    return _path(f"M{places}", style if opacity == 1 else f"{style}; opacity: {opacity}")


def dots(points: Iterable[tuple[float, float]], color: str, radius: float) -> str:
    """Points in pixels."""
    found = "".join(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius}"/>' for x, y in points)
    return f'<g style="fill: {color}">{found}</g>'


def bars(boxes: Iterable[tuple[float, float, float, float]], color: str) -> str:
    """Boxes from (left, top) to (right, bottom), in pixels."""
    found = "".join(f"M{a:.2f} {b:.2f}H{c:.2f}V{d:.2f}H{a:.2f}z" for a, b, c, d in boxes)
    return _path(found, f"fill: {color}; stroke: {LINE}; stroke-width: 0.5")


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}">{text}</text>'


def _path(places: str, style: str) -> str:
    return f'<path d="{places}" style="{style}"/>'
