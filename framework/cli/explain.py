"""`framework explain`: one key, or all -> value, origin, meaning."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from framework.arguments import AllowedEnvironment, AsJson, Overrides, RecipePath
from framework.recipe.explain import explain, explain_all
from framework.recipe.resolve import resolve_with_origins


def run(
    recipe: RecipePath,
    key: Annotated[str | None, typer.Argument(help="Dotted key; none: every key.")] = None,
    overrides: Overrides = None,
    allow_env: AllowedEnvironment = None,
    as_json: AsJson = False,
) -> None:
    """Show a setting's value, where it comes from and what it does."""
    written = list(overrides or ())
    if key is not None and "=" in key:
        written.insert(0, key)
        key = None
    resolved = resolve_with_origins(recipe, written, allow_env or ())
    if key is None:
        found = explain_all(resolved)
        if as_json:
            print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
            return
        for one in found:
            print(f"{one.key} = {one.value}  ({one.origin})")
        return
    one = explain(resolved, key)
    if as_json:
        print(json.dumps(dataclasses.asdict(one), indent=2))
        return
    print(f"{one.key} = {one.value}\nfrom: {one.origin}\n{one.documentation}")
