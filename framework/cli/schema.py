"""`framework schema`: the JSON Schema of a kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

import framework
from framework.core.registries import all_names

Kind = Literal["recipe", "cluster", "sweep", "devices"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOLDER = Path(framework.__file__).parent / "schemas"


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
    text = written_path(kind).read_text(encoding="utf-8")
    if all_names() not in text:  # of other components: a package brings some, or a new file
        text = schema_text(kind)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")


def written_path(kind: Kind) -> Path:
    """What `make docs` wrote: to make a schema, every component is imported."""
    return FOLDER / f"{kind}.schema.json"


def schema_text(kind: Kind) -> str:
    """The schema as the code has it now."""
    return json.dumps(_schema(kind), indent=2) + "\n"


def _schema(kind: Kind) -> dict[str, Any]:
    from framework.launching.cluster import Cluster
    from framework.launching.sweep import Sweep
    from framework.planning.devices import Device
    from framework.recipe.json_schema import file_schema, named_file_schema, recipe_schema

    match kind:
        case "recipe":
            return recipe_schema()
        case "cluster":
            return file_schema(Cluster, "Cluster")
        case "sweep":
            return file_schema(Sweep, "Sweep")
        case "devices":
            return named_file_schema(Device, "Devices")
