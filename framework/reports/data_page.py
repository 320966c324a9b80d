"""Statistics of prepared data -> one HTML page."""

from __future__ import annotations

from framework.data.preview import visible
from framework.reports.curves import histogram_chart
from framework.reports.data_copies import Missing
from framework.reports.data_lines import (
    Rows,
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
from framework.reports.page import render_page
from framework.reports.preview_page import hover
from framework.reports.preview_text import number_lines


def data_page(name: str, part: str, found: DataStatistics) -> str:
    """A page that needs nothing but itself.

    Args:
        name: the recipe's, for the title.
    """
    return render_page(
        "data.html.jinja",
        {
            "name": name,
            "part": part,
            "numbers": number_lines(found.numbers),
            "charts": [
                (
                    f"{one.of.capitalize()} by {one.unit}",
                    histogram_chart(
                        f"{one.name} of {part}", one.histogram["edges"], one.histogram["counts"]
                    ),
                )
                for one in found.distributions
            ],
            "summary": summary_table(found),
            "rows": row_table(found),
            "tokens": token_table(found),
            "sources": source_lines(found),
            "left_out": left_out_lines(found),
            "cleaners": cleaner_table(found) if found.cleaners else None,
            "template": template_lines(found),
            "copies": _copies(found),
            "languages": _languages(found),
            "missing_languages": found.languages if isinstance(found.languages, Missing) else None,
            "random": found.random,
            "worst": [(worst_title(one, found.numbers.num_samples), one) for one in found.worst],
            "title_of": excerpt_title,
            "hover": hover,
            "visible": visible,
        },
    )


def _copies(found: DataStatistics) -> list[tuple[str, list[str]]]:
    kinds = (("Exact duplicates", found.exact_copies), ("Near-duplicates", found.near_copies))
    return [
        (title, [str(one)] if isinstance(one, Missing) else copies_lines(one, found.numbers))
        for title, one in kinds
    ]


def _languages(found: DataStatistics) -> Rows:
    if isinstance(found.languages, Missing):
        return []
    return language_table(found.languages, found.numbers)
