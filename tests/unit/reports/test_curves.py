"""Curves keep their spikes when they are thinned, and become drawings that fit into a page."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from framework.reports.curves import (
    Curve,
    Series,
    histogram_chart,
    line_chart,
    running_mean,
    series_of,
    thinned,
    wants_log_scale,
)


def series(values: list[float]) -> Series:
    return Series(steps=tuple(range(1, len(values) + 1)), values=tuple(values))


def test_only_finite_values_of_rows_with_a_step_are_taken() -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 1, "eval_loss": 9.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": "high"},
        {"loss": 5.0},
        {"step": 4, "loss": 1},
    ]
    found = series_of(rows, "loss")
    assert found == Series(steps=(1.0, 4.0), values=(2.0, 1.0), num_not_finite=1)


def test_a_short_curve_is_drawn_as_it_is() -> None:
    short = series([float(n) for n in range(2000)])
    assert thinned(short) is short


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500),
    most_points=st.integers(4, 60),
)
def test_thinning_keeps_extremes_and_order(values: list[float], most_points: int) -> None:
    whole = series(values)
    few = thinned(whole, most_points)
    assert len(few.steps) <= most_points
    assert max(few.values) == max(whole.values)
    assert min(few.values) == min(whole.values)
    assert list(few.steps) == sorted(set(few.steps))
    assert set(zip(few.steps, few.values, strict=True)) <= set(
        zip(whole.steps, whole.values, strict=True)
    )


def test_the_running_mean_of_a_line_is_the_line() -> None:
    line = series([float(n) for n in range(200)])
    mean = running_mean(line)
    assert mean.steps == line.steps
    assert mean.values[100] == 100.0
    assert mean.values[0] == 2.0  # 0 to 4: nothing is before the first value


def test_a_spike_asks_for_a_logarithmic_scale() -> None:
    assert wants_log_scale(series([1.0] * 99 + [100.0]))
    assert not wants_log_scale(series([1.0, 2.0, 3.0]))
    assert not wants_log_scale(series([0.0] * 99 + [100.0]))
    assert not wants_log_scale(Series())


def test_drawings_take_their_colors_from_the_page() -> None:
    curve = Curve(series=series([1.0, 0.5]))
    evaluation = Curve(series=series([2.0]), color=1, markers=True)
    svg = line_chart("Loss", [curve, evaluation])
    assert "var(--accent)" in svg
    assert "var(--second)" in svg
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg))
    assert "<style" not in svg
    assert svg.count("<svg") == svg.count("</svg>") == 1


def test_labels_keep_all_their_digits() -> None:
    svg = line_chart("x", [Curve(series=series([0.00011, 0.00013]))])
    assert ">0.00012<" in svg


def test_a_drawing_of_very_many_steps_is_small() -> None:
    svg = line_chart("x", [Curve(series=series([float(n % 7) for n in range(200_000)]))])
    assert len(svg) < 30 * 2000


def test_a_single_point_and_an_empty_histogram_are_drawn() -> None:
    assert "<use" in line_chart("x", [Curve(series=series([1.0]))])
    assert "</svg>" in histogram_chart("x", [0, 1], [0])
