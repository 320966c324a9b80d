"""`framework check`: a recipe -> every problem in it, without torch or network."""

from __future__ import annotations

import json
import sys

import typer

from framework.arguments import AllowedEnvironment, AsJson, Overrides, RecipePath
from framework.core.problems import UserError, warn
from framework.recipe.resolve import resolve_with_origins


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    allow_env: AllowedEnvironment = None,
    as_json: AsJson = False,
) -> None:
    """Find everything that is wrong with a recipe, before anything is downloaded."""
    problems, warnings = (), ()
    try:
        warnings = resolve_with_origins(recipe, overrides or (), allow_env or ()).warnings
    except UserError as error:
        problems, warnings = error.problems, error.warnings
    if as_json:
        report = {
            "ok": not problems,
            "problems": [problem.as_json() for problem in problems],
            "warnings": [warning.as_json() for warning in warnings],
        }
        print(json.dumps(report, indent=2))
    else:
        warn(warnings)
        for problem in problems:
            print(problem, file=sys.stderr)
        if not problems:
            print(f"{recipe}: good")
    if problems:
        raise typer.Exit(UserError.exit_code)
