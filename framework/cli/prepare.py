"""`framework prepare`: a recipe's data, tokenized and packed in the cache."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath

MOST_SHOWN = 20
"""Skipped rows of a dataset that are printed; the rest are counted."""


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode.")] = 1,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Tokenize, mask and pack a recipe's data now, so that training starts at once."""
    from framework.core.consent import granted
    from framework.core.problems import warn
    from framework.data.prepared import prepare_data
    from framework.data.preview import found_formats
    from framework.data.reference import fetch_reference
    from framework.engine.preparation_display import PreparationDisplay
    from framework.recipe.repeated_data import repeated_data
    from framework.recipe.resolve import placing, resolve_with_origins
    from framework.reports.preparation_lines import data_lines

    resolved = resolve_with_origins(recipe, overrides or (), allow_env or ())
    consent = granted(allow_url or (), allow_env or ())
    warn(repeated_data(resolved.recipe.data))
    with placing(resolved.origins), consent, PreparationDisplay() as progress:
        data = prepare_data(resolved.recipe, progress=progress, workers=workers)
        fetch_reference(resolved.recipe, data)
    parts = {"train": data.train, "eval": data.eval}
    if as_json:
        found = {
            name: store and {**store.details, "folder": str(store.folder)}
            for name, store in parts.items()
        }
        print(json.dumps(found, indent=2))
        return
    for line in data_lines(data):
        print(line)
    for name, store in parts.items():
        if store is not None:
            for line in found_formats(store):
                print(f"{name}: {line}")
            for counts in store.details["datasets"]:
                _print_skipped(counts)
            print(f"{name}: in {store.folder}")


def _print_skipped(counts: dict[str, Any]) -> None:
    """The rows that `data.on_bad_row: skip` left out, as far as a terminal has room."""
    number, listed = counts["num_skipped_rows"], counts["skipped_rows"][:MOST_SHOWN]
    if number:
        print(f"{counts['name']}: {number:,} of {counts['num_rows']:,} rows skipped:")
    for row in listed:
        print(f"  {row}")
    if number > len(listed):
        print(f"  and {number - len(listed):,} more; --json lists them")
