"""The library's front door: a recipe's path in, typed results out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.world import World
from framework.distributed.peers import DEFAULT_TIMEOUT_SECONDS
from framework.planning.plan import Plan, make_plan
from framework.recipe.resolve import resolve_with_origins

if TYPE_CHECKING:
    from framework.runs.result import Result


def check(recipe: Path | str, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    """Everything that is wrong with a recipe; empty when it is good."""
    try:
        resolve_with_origins(recipe, overrides)
    except UserError as error:
        return error.problems
    return ()


def plan(recipe: Path | str, overrides: Sequence[str] = ()) -> Plan:
    """What a run would do, in the processes and on the device of this environment.

    Raises:
        UserError: the recipe is wrong, or can't be run by so many processes.
    """
    return make_plan(resolve_with_origins(recipe, overrides), World.from_env())


def train(
    recipe: Path | str,
    overrides: Sequence[str] = (),
    allowed_environment: Collection[str] = (),
    allowed_urls: Collection[str] = (),
    peer_timeout: float = DEFAULT_TIMEOUT_SECONDS,
) -> Result:
    """Runs a recipe to its end.

    Args:
        peer_timeout: seconds that a process of several may be silent, or keep the others waiting.

    Raises:
        UserError: with the exit code of what went wrong.
    """
    from framework.train import run

    return run(recipe, overrides, allowed_environment, allowed_urls, peer_timeout)
