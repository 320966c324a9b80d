"""Numbers -> the short text in which a person reads them."""

from __future__ import annotations

_BINARY_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def count_text(number: float) -> str:
    """`1,234`."""
    return f"{number:,.0f}"


def short_count(number: float) -> str:
    """`1,234`, `12.3 k`, `1.2 M`, `7.0 B`: three digits or so."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f} {unit}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.1f}"


def share_text(ratio: float) -> str:
    """`12.5 %`."""
    return f"{ratio * 100:.1f} %"


def bytes_text(number: float) -> str:
    """`1.9 GiB`."""
    exponent = 0
    while abs(number) >= 1024 and exponent < len(_BINARY_UNITS) - 1:
        number /= 1024
        exponent += 1
    return f"{number:,.0f} bytes" if exponent == 0 else f"{number:.1f} {_BINARY_UNITS[exponent]}"


def gibibytes_text(number: float) -> str:
    """`1.93 GiB`, always in this unit: for an axis."""
    return f"{number / (1 << 30):.3g} GiB"


def rate_text(value: float) -> str:
    """`1.5e-4`: a learning rate as papers write it."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def duration_text(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 12 s`, `5 h 04 min`, `2 d 03 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def loss_text(value: float) -> str:
    """Four significant digits: `1.234`, `0.01234`, `1.2e-05` for what is nearly nothing."""
    if value == 0:
        return "0"
    return f"{value:.2g}" if abs(value) < 1e-4 else f"{value:.4g}"
