"""Samples and numbers of the prepared data -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from framework.data.preview import DataNumbers, Histogram, Piece, ShownSample
from framework.reports.quantities import count_text, share_text

TRAINED = "green underline"
NOT_TRAINED = "dim"
SPECIAL = "bold"
BAR_WIDTH = 40


def print_preview(
    part: str, numbers: DataNumbers, samples: Iterable[ShownSample], console: Console
) -> None:
    """The samples token by token, then the numbers.

    Trained tokens are green and underlined; where the output is no terminal, ⟦ and ⟧ are around
    them.
    """
    console.print(legend(styled=console.is_terminal), soft_wrap=True)
    for sample in samples:
        console.print(Rule(Text(_title(sample)), align="left", style="dim"))
        for number, pieces in enumerate(sample.documents, start=1):
            if len(sample.documents) > 1:
                title = f"document {number} of {len(sample.documents)}"
                console.print(Rule(title, align="left", style="dim", characters="·"))
            console.print(document_text(pieces, styled=console.is_terminal), soft_wrap=True)
    console.print(Rule(f"data.{part}", align="left", style="dim"))
    console.print(numbers_table(numbers))
    console.print(histogram_table(numbers.length_histogram, "tokens", "documents"))


def document_text(pieces: Sequence[Piece], *, styled: bool) -> Text:
    """One document; a line break shows as ⏎ and breaks the line."""
    text = Text()
    for trained, group in groupby(pieces, key=lambda piece: piece.trained):
        if trained and not styled:
            text.append("⟦")
        for piece in group:
            style = TRAINED if trained else NOT_TRAINED
            if piece.special:
                style = f"{SPECIAL} {TRAINED}" if trained else SPECIAL
            text.append(piece.text.replace("\n", "⏎\n").replace("\t", "⇥\t"), style)
        if trained and not styled:
            text.append("⟧")
    return text


def legend(*, styled: bool) -> Text:
    """How trained tokens look."""
    if not styled:
        return Text("⟦trained⟧  not trained")
    return Text.assemble(
        ("trained", TRAINED),
        "  ",
        ("not trained", NOT_TRAINED),
        "  ",
        ("<|special|>", SPECIAL),
    )


def _title(sample: ShownSample) -> str:
    return (
        f"{sample.identifier}  {count_text(sample.num_tokens)} tokens, "
        f"{count_text(sample.num_trained_tokens)} trained"
    )


def numbers_table(numbers: DataNumbers) -> Table:
    """Each number and what it counts."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for value, label in number_lines(numbers):
        table.add_row(Text(value), Text(label))
    return table


def number_lines(numbers: DataNumbers) -> list[tuple[str, str]]:
    """(Number, what it counts) of everything there is to know."""
    lines = [
        (count_text(numbers.num_rows), "rows"),
        (count_text(numbers.num_samples), "samples"),
        (count_text(numbers.num_tokens), "tokens"),
        (
            count_text(numbers.num_trained_tokens),
            f"trained tokens ({share_text(numbers.trained_share)})",
        ),
        (count_text(numbers.longest), "tokens in the longest document"),
        (count_text(numbers.num_over_length_rows), "rows over data.max_length"),
        *_over_length_lines(numbers),
        (count_text(numbers.num_untrained_rows), "rows with nothing to train, left out"),
        (count_text(numbers.num_skipped_rows), "rows skipped, left out"),
    ]
    if numbers.num_packs is not None and numbers.packing_efficiency is not None:
        filled = share_text(numbers.packing_efficiency)
        lines.append((count_text(numbers.num_packs), f"packs, {filled} filled"))
        share = share_text(numbers.num_shared_tokens / max(numbers.num_tokens, 1))
        what = f"tokens in common with others of a pack, computed once ({share})"
        lines.append((count_text(numbers.num_shared_tokens), what))
    return lines


def _over_length_lines(numbers: DataNumbers) -> list[tuple[str, str]]:
    """What became of the rows over length, as far as there are any."""
    fates = (
        (numbers.num_cut_rows, "of them cut"),
        (numbers.num_split_rows, "of them split into several samples"),
        (numbers.num_dropped_rows, "of them left out"),
        (numbers.num_cut_answers, "answers trained without their end"),
        (numbers.num_lost_trained_tokens, "tokens of theirs no longer trained"),
    )
    return [(count_text(count), label) for count, label in fates if count]


def histogram_table(histogram: Histogram, unit: str, of: str) -> Table:
    """A bar for each range of `unit`, and how many `of` lie in it."""
    edges, counts = histogram["edges"], histogram["counts"]
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    most = max(counts)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        length = round(count / max(most, 1) * BAR_WIDTH)
        bar = "█" * max(length, 1) if count else ""
        span = f"{left:,}" if right == left + 1 else f"{left:,}–{right - 1:,}"  # noqa: RUF001
        table.add_row(span, bar, count_text(count))
    table.add_row(unit, "", of)
    return table
