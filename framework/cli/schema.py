"""`framework schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from framework.launching.cluster import Cluster
from framework.launching.sweep import Sweep
from framework.planning.devices import Device
from framework.recipe.json_schema import file_schema, named_file_schema, recipe_schema

Kind = Literal["recipe", "cluster", "sweep", "devices"]
SCHEMAS: Mapping[Kind, Callable[[], dict[str, Any]]] = {
    "recipe": recipe_schema,
    "cluster": lambda: file_schema(Cluster, "Cluster"),
    "sweep": lambda: file_schema(Sweep, "Sweep"),
    "devices": lambda: named_file_schema(Device, "Devices"),
}


def run(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="Files that it is of: recipes, those of --cluster, --sweep or --device-table."
        ),
    ] = "recipe",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file instead.")
    ] = None,
) -> None:
    """Print the JSON Schema of recipes or other files, for completion and checking in an editor."""
    text = json.dumps(SCHEMAS[kind](), indent=2) + "\n"
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
