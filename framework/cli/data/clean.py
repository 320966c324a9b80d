"""`framework data clean`: a recipe's training data, cleaned, as files that a recipe reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath


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
    from framework.cleaning.corpus import Cleaned, Cluster, clean_corpus
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
        print(f"submitted; rows go to {output}, what is found to {output / 'findings'}")
        return

    def told(one: Cleaned) -> str:
        path = json.dumps(str(output / one.name), ensure_ascii=False)
        return f"    - source: {{type: jsonl, path: {path}}}\n      format: {one.format}"

    for one in found:
        skipped = f", {one.num_skipped_rows:,} skipped" if one.num_skipped_rows else ""
        print(f"{one.name}: {one.num_kept_rows:,} of {one.num_rows:,} rows kept{skipped}")
        for cleaner, numbers in one.cleaners:
            done = [
                f"{key.removeprefix('num_')} {value:,}" for key, value in numbers.items() if value
            ]
            print(f"  {cleaner}: {', '.join(done) or 'nothing found'}")
    print("data:\n  train:\n" + "\n".join(told(one) for one in found))
