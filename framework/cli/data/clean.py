"""`framework data clean`: a recipe's training data, cleaned, as files that a recipe reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath

if TYPE_CHECKING:
    from framework.cleaning.corpus import Cleaned
    from framework.recipe.schema import Recipe

EFFECTS = ("num_change", "num_drop", "num_refuse")
"""What a cleaner counts that a dry run leaves undone."""
STILL_APPLY = ("system_prompt", "task_prefix", "weight", "epochs")
"""Keys of a dataset that clean rows are read with too; the others are done with."""


def run(
    recipe: RecipePath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the cleaned rows.")],
    overrides: Overrides = None,
    executor: Annotated[
        Literal["local", "slurm"], typer.Option(help="Where the tasks run.")
    ] = "local",
    tasks: Annotated[int, typer.Option(min=1, help="Shares that the rows are cleaned in.")] = 1,
    workers: Annotated[int, typer.Option(min=-1, help="Tasks at a time; -1: all.")] = -1,
    time: Annotated[str, typer.Option(help="Slurm's time limit of a task.")] = "",
    partition: Annotated[str, typer.Option(help="Slurm's partition.")] = "",
    memory: Annotated[int, typer.Option(min=1, help="Gigabytes of a task, for Slurm.")] = 4,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe's cleaners over its training data, in parallel or on a cluster."""
    from framework.cleaning.corpus import Cluster, clean_corpus
    from framework.core.consent import granted
    from framework.recipe.resolve import resolve

    cluster = Cluster(
        executor=executor,
        tasks=tasks,
        workers=workers,
        time=time,
        partition=partition,
        memory_gigabytes=memory,
    )
    resolved = resolve(recipe, overrides or (), allow_env or ())
    with granted(allow_url or (), allow_env or ()):
        found = clean_corpus(resolved, output, cluster)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    if executor == "slurm":
        print(f"submitted; {_goes_to(resolved, output)}")
        return
    if resolved.data.dry_run:
        print(f"dry run: {_goes_to(resolved, output)}")
    for one in found:
        _print_counts(one)
    if resolved.data.dry_run:
        print("nothing was cleaned; write data.dry_run=false to do it, into the same folder")
    else:
        print(_data_section(resolved, output, found), end="")


def _goes_to(recipe: Recipe, output: Path) -> str:
    from framework.cleaning.corpus import findings_folder

    listed = findings_folder(recipe, output)
    if recipe.data.dry_run:
        return f"no rows are written; what is found is listed in {listed}"
    return f"rows go to {output.absolute()}, what is found to {listed}"


def _print_counts(one: Cleaned) -> None:
    skipped = f", {one.num_skipped_rows:,} skipped" if one.num_skipped_rows else ""
    kept = "" if one.dry_run else f"{one.num_kept_rows:,} of "
    done = "read" if one.dry_run else "kept"
    print(f"{one.name}: {kept}{one.num_rows:,} rows {done}{skipped}")
    would = "would " if one.dry_run else ""
    for cleaner, numbers in one.cleaners:
        told = [
            f"{would * (key in EFFECTS)}{key.removeprefix('num_')} {value:,}"
            for key, value in numbers.items()
            if value
        ]
        print(f"  {cleaner}: {', '.join(told) or 'nothing found'}")


def _data_section(recipe: Recipe, output: Path, found: Sequence[Cleaned]) -> str:
    """What a recipe writes to read the rows as the datasets that they came from."""
    import yaml

    from framework.cleaning.sample_rows import LOSS_WEIGHT
    from framework.reading.parts import named_datasets

    datasets = named_datasets(recipe, "train")
    entries: list[dict[str, Any]] = []
    for one in found:
        written = {key: vars(datasets[one.name])[key] for key in STILL_APPLY}
        if datasets[one.name].loss_weight_column is not None:
            written["loss_weight_column"] = LOSS_WEIGHT
        entries.append(
            {
                "name": one.name,
                "source": {"type": "jsonl", "path": str(output.absolute() / one.name)},
                "format": yaml.safe_load(one.format),
                **{key: value for key, value in written.items() if value is not None},
            }
        )
    return yaml.safe_dump(
        {"data": {"train": entries}}, sort_keys=False, allow_unicode=True, width=10_000
    )
