"""`framework data stats`: a recipe -> what is in its data, as it will be trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath
from framework.recipe.resolve import placing, resolve_with_origins


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    part: Annotated[Literal["train", "eval"], typer.Option(help="Which data.")] = "train",
    html: Annotated[Path | None, typer.Option(help="Write a page to this file instead.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="How many random samples to show.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Draws them.")] = 0,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Show lengths, trained shares, duplicates, languages, and random and worst samples."""
    from framework.cli.preview import prepared_part, write_page
    from framework.core.consent import granted

    resolved = resolve_with_origins(recipe, overrides or (), allow_env or ())
    with placing(resolved.origins), granted(allow_url or (), allow_env or ()):
        data, store = prepared_part(resolved.recipe, part)

    from framework.data.prepared import STREAMED_ROWS_SHOWN
    from framework.reports.data_statistics import data_statistics

    streamed = part == "train" and data.stream is not None
    found = data_statistics(
        store,
        data.chat,
        resolved.recipe.tokenizer.chat_template,
        first_rows=STREAMED_ROWS_SHOWN if streamed else None,
        num_samples=samples,
        seed=seed,
    )
    if html is not None:
        from framework.reports.data_page import data_page

        write_page(html, data_page(recipe.name, part, found))
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    elif html is not None:
        print(html)
    else:
        from rich.console import Console

        from framework.reports.data_text import print_statistics

        print_statistics(part, found, Console(highlight=False))
