"""Statistics of prepared data -> the lines and tables that terminal and page have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from framework.data.counts import Counts
from framework.data.preview import DataNumbers
from framework.reports.data_copies import COMMON_SHARE, PIECE_TOKENS, SIMILARITY, Copies, Group
from framework.reports.data_excerpts import Excerpt
from framework.reports.data_languages import Languages
from framework.reports.data_statistics import DataStatistics, Worst
from framework.reports.quantities import count_text, share_text

_MOST_IDS = 10
"""Rows that a line names; the JSON has more of them."""

Rows = list[list[str]]
"""A table: its head, then its rows; numbers everywhere but in the first column."""


def row_table(found: DataStatistics) -> Rows:
    """What became of the rows of each dataset."""
    head = [
        "dataset",
        "format",
        "rows",
        "skipped",
        "cleaned",
        "over length",
        "untrained",
        "samples",
    ]
    rows: Rows = [head]
    for counts in (one.counts for one in found.datasets):
        numbers = (
            counts.num_rows,
            counts.num_skipped_rows,
            counts.num_cleaned_rows,
            counts.num_over_length_rows,
            counts.num_untrained_rows,
            counts.num_samples,
        )
        rows.append([counts.name, counts.format, *map(count_text, numbers)])
    return rows


def token_table(found: DataStatistics) -> Rows:
    """How much of each dataset is trained, and its share of the whole."""
    rows: Rows = [["dataset", "tokens", "trained", "trained share", "of all trained"]]
    for one in found.datasets:
        numbers = (one.counts.num_tokens, one.counts.num_trained_tokens)
        shares = (one.trained_share, one.share_of_trained)
        rows.append([one.counts.name, *map(count_text, numbers), *map(share_text, shares)])
    return rows


def source_lines(found: DataStatistics) -> list[str]:
    """Formats that were found, and what sources counted."""
    lines = list(found.found_formats)
    if found.first_rows is not None:
        rows = count_text(found.first_rows)
        lines.insert(0, f"streamed data: everything here is of the first {rows} rows of a dataset")
    for name, tally in found.sources.items():
        counts = [
            f"{key.removeprefix('num_').replace('_', ' ')} {count_text(count)}"
            for key, count in tally.items()
        ]
        lines.append(f"{name}, as its source counts: {', '.join(counts)}")
    return lines


def left_out_lines(found: DataStatistics) -> list[str]:
    """The first rows of each dataset that did not come through as they are, and why."""
    return [line for one in found.datasets for line in _left_out(one.counts)]


def _left_out(counts: Counts) -> Iterator[str]:
    for reason in counts.skipped_rows[:_MOST_IDS]:
        yield f"{counts.name}, skipped: {reason}"
    over_length = (
        (counts.num_cut_rows, "cut"),
        (counts.num_split_rows, "split"),
        (counts.num_dropped_rows, "left out"),
    )
    became = ", ".join(f"{count_text(count)} {what}" for count, what in over_length if count)
    kinds = (
        (f"over length ({became})", counts.over_length_rows, counts.num_over_length_rows),
        ("answers without their end", counts.cut_answer_rows, len(counts.cut_answer_rows)),
        ("nothing to train", counts.untrained_rows, counts.num_untrained_rows),
    )
    for what, rows, count in kinds:
        if count:
            yield f"{counts.name}, {what}: rows {_listed(map(str, rows), count)}"


def cleaner_table(found: DataStatistics) -> Rows:
    """What each cleaner found, and where it is listed."""
    rows: Rows = [["cleaner", "changed", "dropped", "reported", "listed in"]]
    for one in found.cleaners:
        counts = (one["num_change"], one["num_drop"], one["num_report"])
        rows.append([one["cleaner"], *map(count_text, counts), one["file"]])
    return rows


def template_lines(found: DataStatistics) -> list[str]:
    """The template's name and hash, where a server stops, and what tokenized."""
    template = found.template
    digest = f" (sha256 {template.sha256[:12]})" if template.sha256 else ""
    stops = " ".join(template.stop_tokens) or "none"
    backend = f"tokenized by: {found.tokenizer['used']}"
    if found.tokenizer["difference"]:
        backend += f", as {found.tokenizer['difference']}"
    return [f"chat template: {template.name}{digest}", f"stop tokens: {stops}", backend]


def summary_table(found: DataStatistics) -> Rows:
    """Where the numbers of each distribution lie."""
    rows: Rows = [["", "smallest", "median", "mean", "90 %", "99 %", "largest"]]
    for one in found.distributions:
        values = one.summary
        numbers = (
            values["minimum"],
            values["median"],
            values["mean"],
            values["percentile_90"],
            values["percentile_99"],
            values["maximum"],
        )
        rows.append([f"{one.unit} of {one.of}", *map(_number_text, numbers)])
    return rows


def copies_lines(copies: Copies, numbers: DataNumbers) -> list[str]:
    """How many copies there are, of what they were found among, and the largest groups."""
    near = copies.threshold is not None
    share = share_text(copies.num_copies / max(copies.num_compared, 1))
    among = compared_text(copies.num_compared, numbers.num_samples)
    trained = f"{count_text(copies.num_trained_tokens)} trained tokens"
    lines = [f"{count_text(copies.num_copies)} ({share} of {among}), {trained}"]
    if near:
        lines.append(
            f"alike: {share_text(SIMILARITY)} or more of their pieces of {PIECE_TOKENS} tokens in "
            f"common (estimated); pieces that more than {share_text(COMMON_SHARE)} of the samples "
            "have don't count, exact copies are not compared"
        )
    return [*lines, *map(_group_line, copies.largest)]


def language_table(languages: Languages, numbers: DataNumbers) -> Rows:
    """Samples by the language of what is trained in them."""
    among = compared_text(languages.num_samples, numbers.num_samples)
    rows: Rows = [["language", f"of {among}", "share", "such as"]]
    for one in languages.found:
        share = share_text(one.num_samples / languages.num_samples)
        rows.append([one.code, count_text(one.num_samples), share, ", ".join(one.identifiers)])
    return rows


def worst_title(worst: Worst, num_samples: int) -> str:
    """`longest, of all 300 samples`."""
    return f"{worst.title}, of {compared_text(worst.num_compared, num_samples)}"


def excerpt_title(one: Excerpt) -> str:
    """`train0:3  42 tokens, 8 trained`."""
    title = (
        f"{one.identifier}  {count_text(one.num_tokens)} tokens, "
        f"{count_text(one.num_trained_tokens)} trained"
    )
    if one.num_documents > 1:
        title += f", {one.num_documents} documents"
    return f"{title}, {one.why}" if one.why else title


def compared_text(num_compared: int, num_samples: int) -> str:
    """`all 300 samples`, or `2,000 of 100,000 samples` where not all were looked at."""
    if num_compared == num_samples:
        return f"all {count_text(num_samples)} samples"
    return f"{count_text(num_compared)} of {count_text(num_samples)} samples"


def _number_text(number: float) -> str:
    return count_text(number) if number == int(number) else f"{number:,.1f}"


def _group_line(group: Group) -> str:
    return f"{count_text(group.size)} times: {_listed(group.identifiers, group.size)}"


def _listed(names: Iterable[str], count: int) -> str:
    first = list(names)[:_MOST_IDS]
    rest = count - len(first)
    return ", ".join(first) + (f" and {count_text(rest)} more" if rest else "")
