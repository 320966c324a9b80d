"""Samples and numbers of the prepared data -> one HTML page."""

from __future__ import annotations

from collections.abc import Iterable

from framework.data.preview import DataNumbers, Piece, ShownSample
from framework.reports.curves import histogram_chart
from framework.reports.page import render_page
from framework.reports.preview_text import number_lines


def preview_page(name: str, part: str, numbers: DataNumbers, samples: Iterable[ShownSample]) -> str:
    """A page that needs nothing but itself; pointing at a token shows its id and position.

    Args:
        name: the recipe's, for the title.
    """
    histogram = numbers.length_histogram
    return render_page(
        "preview.html.jinja",
        {
            "name": name,
            "part": part,
            "numbers": number_lines(numbers),
            "histogram": histogram_chart(
                f"Lengths of {part}", histogram["edges"], histogram["counts"]
            ),
            "samples": samples,
            "hover": hover,
        },
    )


def hover(piece: Piece) -> str:
    """`token 12: id 345`, or the range where tokens are joined."""
    ids = ", ".join(map(str, piece.token_ids))
    last = piece.position + len(piece.token_ids) - 1
    if last == piece.position:
        return f"token {piece.position}: id {ids}"
    return f"tokens {piece.position} to {last}: ids {ids}"
