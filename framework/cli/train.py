"""`framework train`: one recipe, in this process; `accelerate launch` starts several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...")] = None,
    allow_env: Annotated[
        list[str] | None, typer.Option(help="Variable that ${oc.env:NAME} may read.")
    ] = None,
) -> None:
    """Train a recipe, from its newest checkpoint if there is one."""
    from framework.train import run as train

    train(recipe, overrides or (), allow_env or ())
