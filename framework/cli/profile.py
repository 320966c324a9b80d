"""`framework profile`: a recipe -> where a step's time and memory go, and what would help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import (
    AllowedEnvironment,
    AllowedUrls,
    AsJson,
    Overrides,
    PeerTimeout,
    RecipePath,
)
from framework.distributed.peers import DEFAULT_TIMEOUT_SECONDS


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to time, after one.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; by default `output.dir`-profile."),
    ] = None,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    peer_timeout: PeerTimeout = DEFAULT_TIMEOUT_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Do a few steps of a recipe; say where their time and memory go, and what would help.

    Nothing is trained: of the steps only `profile.json` and `trace.json` stay, for Perfetto or
    chrome://tracing.
    """
    from framework.core.consent import granted
    from framework.train import planned_together

    with planned_together(recipe, overrides or (), allow_env or (), peer_timeout) as (plan, peers):
        from framework.profiling.profile import profile

        consent = granted(allow_url or (), allow_env or ())
        folder = output or plan.output_dir.with_name(f"{plan.output_dir.name}-profile")
        found = profile(plan, peers, consent, folder.absolute(), steps)
    if found is None:
        return
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    from rich.console import Console

    from framework.profiling.profile_text import print_profile

    print_profile(found, Console(highlight=False))
