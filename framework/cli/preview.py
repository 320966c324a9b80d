"""`framework preview`: a recipe -> its data token by token, just as it will be trained."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath
from framework.core.consent import granted
from framework.core.problems import Problem, UserError
from framework.recipe.resolve import placing, resolve_with_origins

if TYPE_CHECKING:
    from framework.data.prepared import PreparedData
    from framework.data.preview import DataNumbers
    from framework.data.store import Store
    from framework.recipe.schema import Recipe

_NUMBERS = ("num_rows", "num_trained_tokens", "num_truncated_rows", "packing_efficiency")


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=0, help="How many samples to show.")] = 3,
    part: Annotated[Literal["train", "eval"], typer.Option(help="Which data.")] = "train",
    html: Annotated[Path | None, typer.Option(help="Write a page to this file instead.")] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Prove every token and mask on disk from scratch.")
    ] = False,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Show samples as the model will see them, which tokens are trained, and the numbers."""
    try:
        found = resolve_with_origins(recipe, overrides or (), allow_env or ())
        resolved = found.recipe
        with placing(found.origins), granted(allow_url or (), allow_env or ()):
            if prove:
                _prove(resolved, part, as_json=as_json)
                return
            data, store = prepared_part(resolved, part)
    except UserError as error:
        if not as_json:
            raise
        print(json.dumps(_failure(error), indent=2))
        raise typer.Exit(error.exit_code) from error

    from framework.data.preview import data_numbers, found_formats, shown_samples
    from framework.reports.preparation_lines import part_lines

    numbers = data_numbers(store)
    samples = shown_samples(store, data.chat.vocabulary, rows)
    if html is not None:
        from framework.reports.preview_page import preview_page

        write_page(html, preview_page(recipe.name, part, numbers, samples))
    formats = found_formats(store)
    if as_json:
        print(json.dumps({**_report(numbers), "found_formats": formats}, indent=2))
        return
    for line in (*formats, *part_lines(part, store, resolved)):
        print(line, file=sys.stderr)
    if html is not None:
        print(html)
    else:
        from rich.console import Console

        from framework.reports.preview_text import print_preview

        print_preview(part, numbers, samples, Console(highlight=False))


def prepared_part(recipe: Recipe, part: str) -> tuple[PreparedData, Store]:
    """All prepared data, and that of one part.

    Raises:
        UserError: the recipe has no such part, or its data can't be prepared.
    """
    from framework.data.prepared import prepare_data
    from framework.engine.preparation_display import PreparationDisplay

    if part == "eval" and not recipe.data.datasets_of("eval"):
        raise UserError(
            Problem(
                key="data.eval",
                what="is empty, there is nothing to show",
                hint="add a dataset under `data.eval`, or leave out `--part eval`",
            )
        )
    with PreparationDisplay() as progress:
        data = prepare_data(recipe, progress=progress)
    store = data.train if part == "train" else data.eval
    assert store is not None
    return data, store


def _prove(recipe: Recipe, part: Literal["train", "eval"], *, as_json: bool) -> None:
    """Exit code 2 where anything is found.

    Raises:
        UserError: there is nothing to prove, for another reason than its rows.
    """
    from framework.chat.lazy_chat import LazyChat
    from framework.data.prepared import stored_recipe
    from framework.data.preview import data_numbers
    from framework.data.reproof import reprove
    from framework.reports.proof_text import proof_text

    store, failure = None, None
    try:
        data, store = prepared_part(recipe, part)
        lazy_chat = data.lazy_chat
    except UserError as error:
        failure = error
        lazy_chat = LazyChat(recipe, recipe.model.source.fetch())
    proof = reprove(stored_recipe(recipe), part, lazy_chat, store)
    if failure is not None and not proof.problems:
        raise failure
    if as_json:
        numbers: dict[str, Any] = dict.fromkeys(_NUMBERS)
        if store is not None:
            numbers = _report(data_numbers(store))
        problems = [dataclasses.asdict(problem) for problem in proof.problems]
        report = {**numbers, "num_problems": proof.num_problems, "problems": problems}
        print(json.dumps(report, indent=2))
    else:
        print(proof_text(proof))
    if proof.problems:
        raise typer.Exit(UserError.exit_code)


def write_page(path: Path, page: str) -> None:
    """Writes the file that `--html` names.

    Raises:
        UserError: it can't be written.
    """
    from framework.core.atomic import write_file

    try:
        write_file(path, page)
    except OSError as error:
        raise UserError(
            f"--html: {str(path)!r} can't be written: {error.strerror}", hint="write another path"
        ) from error


def _report(numbers: DataNumbers) -> dict[str, Any]:
    return {
        **dataclasses.asdict(numbers),
        "trained_share": numbers.trained_share,
        "num_truncated_rows": numbers.num_cut_rows,
        "problems": [],
    }


def _failure(error: UserError) -> dict[str, Any]:
    """The same keys without numbers, and why there are none."""
    return {
        **dict.fromkeys(_NUMBERS),
        "problems": [problem.as_json() for problem in error.problems],
    }
