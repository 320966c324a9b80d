"""Statistics of prepared data -> what a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from framework.data.preview import visible
from framework.reports.data_copies import Copies, Missing
from framework.reports.data_excerpts import Excerpt
from framework.reports.data_languages import Languages
from framework.reports.data_lines import (
    cleaner_table,
    copies_lines,
    excerpt_title,
    language_table,
    left_out_lines,
    row_table,
    source_lines,
    summary_table,
    template_lines,
    token_table,
    worst_title,
)
from framework.reports.data_statistics import DataStatistics
from framework.reports.preview_text import document_text, histogram_table, legend, numbers_table
from framework.reports.quantities import count_text


def print_statistics(part: str, found: DataStatistics, console: Console) -> None:
    """Samples first, then what is counted, so that the numbers stand above the prompt."""
    console.print(legend(styled=console.is_terminal), soft_wrap=True)
    console.print(Rule(f"{len(found.random)} samples, drawn", align="left", style="bold"))
    _print_excerpts(found.random, console)
    for worst in found.worst:
        title = worst_title(worst, found.numbers.num_samples)
        console.print(Rule(title, align="left", style="bold"))
        _print_excerpts(worst.samples, console)
    _section(f"data.{part}", console)
    console.print(numbers_table(found.numbers))
    _section("datasets", console)
    _print_table(row_table(found), console)
    console.print()
    _print_table(token_table(found), console)
    _print_lines([*source_lines(found), *left_out_lines(found)], console)
    if found.cleaners:
        _section("cleaners", console)
        _print_table(cleaner_table(found), console)
    _section("template", console)
    _print_lines(template_lines(found), console)
    _print_distributions(found, console)
    _section("exact duplicates", console)
    _print_copies(found.exact_copies, found, console)
    _section("near-duplicates", console)
    _print_copies(found.near_copies, found, console)
    _section("languages", console)
    _print_languages(found.languages, found, console)


def _print_distributions(found: DataStatistics, console: Console) -> None:
    _section("distributions", console)
    _print_table(summary_table(found), console)
    for one in found.distributions:
        console.print()
        console.print(histogram_table(one.histogram, one.unit, one.of))


def _print_copies(copies: Copies | Missing, found: DataStatistics, console: Console) -> None:
    _print_lines(
        [str(copies)] if isinstance(copies, Missing) else copies_lines(copies, found.numbers),
        console,
    )


def _print_languages(
    languages: Languages | Missing, found: DataStatistics, console: Console
) -> None:
    if isinstance(languages, Missing):
        _print_lines([str(languages)], console)
        return
    _print_table(language_table(languages, found.numbers), console)


def _print_excerpts(excerpts: Sequence[Excerpt], console: Console) -> None:
    styled = console.is_terminal
    for one in excerpts:
        console.print(Rule(Text(excerpt_title(one)), align="left", style="dim"))
        console.print(document_text(one.beginning, styled=styled), soft_wrap=True)
        if one.num_left_out:
            console.print(f"[... {count_text(one.num_left_out)} tokens ...]", markup=False)
            console.print(document_text(one.end, styled=styled), soft_wrap=True)


def _print_table(rows: Sequence[Sequence[str]], console: Console) -> None:
    """The first row is the head; the first column is text, the others are numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for number, title in enumerate(rows[0]):
        table.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(visible(value)) for value in row))
    console.print(table)


def _print_lines(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(Text(visible(line)), soft_wrap=True)


def _section(title: str, console: Console) -> None:
    console.print(Rule(title, align="left", style="bold"))
