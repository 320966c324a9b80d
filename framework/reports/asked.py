"""Details of prepared data -> lines that say what models were asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def asked_lines(details: Mapping[str, Any]) -> Iterator[str]:
    """One line for each cleaner and data source that asked a model."""
    for counts in details["cleaners"]:
        if "num_requests" in counts:
            yield (
                f"{counts['cleaner']}: {_asked(counts)}, {counts['num_failures']:,} in vain; "
                f"{counts['num_change']:,} rows changed, {counts['num_drop']:,} dropped, "
                f"listed in {counts['file']}"
            )
    for dataset, counts in details["sources"].items():
        if "num_requests" in counts:
            yield (
                f"{dataset}: {_asked(counts)}; {counts['num_rows']:,} rows made, "
                f"{counts['num_invalid_answers']:,} answers were none"
            )


def _asked(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['num_answers_asked']:,} answers asked for in {counts['num_requests']:,} requests "
        f"({counts['num_total_tokens']:,} tokens), {counts['num_answers_from_cache']:,} known"
    )
