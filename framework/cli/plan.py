"""`framework plan`: a recipe -> memory, steps, time and cost, before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AllowedUrls, AsJson, Overrides, RecipePath


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Devices of a node, such as `8xH100-80GB`; else this machine's CPU."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes with so many devices each.")] = 1,
    device_table: Annotated[
        Path | None, typer.Option(help="YAML file with more devices, or other prices.")
    ] = None,
    allow_env: AllowedEnvironment = None,
    allow_url: AllowedUrls = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run will need: memory by kind, steps, time, cost and communication."""
    from framework.core.consent import granted
    from framework.core.problems import warn
    from framework.planning.devices import cluster_of
    from framework.recipe.resolve import placing, resolve_with_origins

    cluster = cluster_of(devices, nodes, device_table)
    resolved = resolve_with_origins(recipe, overrides or (), allow_env or (), config_only=True)
    warn(resolved.warnings)

    from framework.tracing.outlook import look_ahead

    with placing(resolved.origins), granted(allow_url or (), allow_env or ()):
        outlook = look_ahead(resolved, cluster)
    if as_json:
        print(json.dumps(outlook.as_json(), indent=2))
        return
    from rich.console import Console

    from framework.tracing.plan_text import print_outlook

    print_outlook(outlook, Console(highlight=False))
