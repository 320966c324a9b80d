"""The preview in a terminal says what is trained, with colors and without."""

from __future__ import annotations

import io

from rich.console import Console

from framework.data.preview import DataNumbers, Piece, ShownSample
from framework.reports.preview_text import print_preview

NUMBERS = DataNumbers(
    num_rows=1234,
    num_samples=1200,
    num_documents=1200,
    num_tokens=50_000,
    num_trained_tokens=10_000,
    num_over_length_rows=30,
    num_untrained_rows=3,
    num_skipped_rows=1,
    longest=99,
    num_packs=70,
    packing_efficiency=0.987,
    length_histogram={"edges": [0, 50, 100], "counts": [300, 900]},
)


def piece(text: str, *, trained: bool = False, special: bool = False) -> Piece:
    return Piece(text=text, token_ids=(1,), position=0, trained=trained, special=special)


PIECES = (
    piece("<|user|>", special=True),
    piece("What"),
    piece("?\n"),
    piece("[bold]It[/bold]", trained=True),
    piece("'s\n\n", trained=True),
    piece("<|end|>", trained=True, special=True),
    piece("\n"),
)


def printed(sample: ShownSample, *, terminal: bool, color: bool = True) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        no_color=not color,
        width=80,
        highlight=False,
        legacy_windows=False,
    )
    print_preview("train", NUMBERS, [sample], console)
    return stream.getvalue()


def test_brackets_are_around_trained_tokens_where_nothing_can_be_styled() -> None:
    text = printed(ShownSample(identifier="a:1", documents=(PIECES,)), terminal=False)
    assert "<|user|>What?⏎\n⟦[bold]It[/bold]'s⏎\n⏎\n<|end|>⟧⏎\n" in text
    assert "\x1b" not in text


def test_trained_tokens_are_underlined_even_without_color() -> None:
    text = printed(ShownSample(identifier="a:1", documents=(PIECES,)), terminal=True, color=False)
    assert "\x1b[4m[bold]It[/bold]\x1b[0m" in text
    assert "\x1b[1;4m<|end|>\x1b[0m" in text
    assert "\x1b[2mWhat\x1b[0m" in text
    assert "⟦" not in text


def test_documents_of_one_sample_are_told_apart() -> None:
    text = printed(ShownSample(identifier="[red]a:1", documents=(PIECES, PIECES)), terminal=False)
    assert "[red]a:1  14 tokens, 6 trained" in text
    assert "document 1 of 2" in text
    assert "document 2 of 2" in text


def test_all_numbers_are_printed() -> None:
    text = printed(ShownSample(identifier="a:1", documents=(PIECES,)), terminal=False)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "1,234 rows",
        "1,200 samples",
        "50,000 tokens",
        "10,000 trained tokens (20.0 %)",
        "99 tokens in the longest document",
        "30 rows over data.max_length",
        "3 rows with nothing to train, left out",
        "1 rows skipped, left out",
        "70 packs, 98.7 % filled",
        f"50–99 {'█' * 40} 900",  # noqa: RUF001 - a range
    ):
        assert line in lines, line
