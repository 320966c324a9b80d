"""`framework list`: every component that a recipe can name."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from framework.arguments import AsJson
from framework.core.registries import KINDS, registry


def run(
    kind: Annotated[str | None, typer.Argument(help="Only this kind.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the components of every kind, with a line about each."""
    entries = {name: registry(name).entries() for name in ([kind] if kind else KINDS)}
    if as_json:
        found = {
            name: [dataclasses.asdict(entry) for entry in of_kind]
            for name, of_kind in entries.items()
        }
        print(json.dumps(found, indent=2))
        return
    for name, of_kind in entries.items():
        print(name)
        for entry in of_kind:
            origin = "" if entry.origin == "built-in" else f"  [{entry.origin}]"
            print(f"  {entry.name:22} {entry.summary}{origin}")
