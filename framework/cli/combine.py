"""`framework combine`: LoRA adapters of several runs -> one."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AsJson


class Method(StrEnum):
    """How the updates become one."""

    cat = "cat"
    svd = "svd"
    linear = "linear"
    ties = "ties"
    ties_svd = "ties_svd"
    dare_linear = "dare_linear"
    dare_linear_svd = "dare_linear_svd"
    dare_ties = "dare_ties"
    dare_ties_svd = "dare_ties_svd"
    magnitude_prune = "magnitude_prune"
    magnitude_prune_svd = "magnitude_prune_svd"


def run(
    runs: Annotated[list[Path], typer.Argument(help="The `output.dir` of two runs, or more.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new.")],
    method: Annotated[
        Method,
        typer.Option(
            help="cat: the exact sum, of the sum of the ranks. svd: the nearest of a lower rank. "
            "linear, ties, dare_..., magnitude_prune: of equal ranks, approximate."
        ),
    ] = Method.cat,
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", "-w", help="Of each adapter, in order; all alike by default."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of what svd makes.")] = None,
    density: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Part that ties, dare and magnitude_prune keep."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what dare leaves out.")] = 0,
    allow_env: AllowedEnvironment = None,
    as_json: AsJson = False,
) -> None:
    """Combine LoRA adapters of one base; `chat` and `merge` take the result like a run."""
    from framework.core.problems import UserError
    from framework.runs.combine import combine
    from framework.runs.trained import FinishedRun

    prunes = method.value.startswith(("ties", "dare", "magnitude_prune"))
    if prunes != (density is not None):
        raise UserError(
            f"--density {'is missing for' if prunes else 'has no meaning for'} {method.value}",
            hint="write --density 0.5" if prunes else "leave it out",
        )
    if rank is not None and not method.value.endswith("svd"):
        raise UserError(
            f"--rank has no meaning for {method.value}", hint="write --method svd, or leave it out"
        )
    found = combine(
        [FinishedRun.open(path, allow_env or ()) for path in runs],
        output,
        method=method.value,
        weights=weights or [1 / len(runs)] * len(runs),
        rank=rank,
        density=density,
        seed=seed,
    )
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "output": str(output)}, indent=2))
        return
    listed = " + ".join(f"{w:g} {s}" for w, s in zip(found.weights, found.sources, strict=True))
    print(
        f"{output}: {listed} by {found.method}, rank {found.rank}; "
        f"{found.distance_from_sum:.2g} of the sum away from it"
    )
