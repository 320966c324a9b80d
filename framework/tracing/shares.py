"""Plan -> which part of a model each of its devices holds."""

from __future__ import annotations

from framework.core.problems import Problem, UserError
from framework.core.protocols.sharding import Sharding, Shares
from framework.core.registries import component_name
from framework.planning.plan import Plan


def shares_of(plan: Plan) -> Shares:
    """What the strategy says for the plan's processes and dtypes.

    Raises:
        UserError: it says nothing.
    """
    strategy = plan.recipe.strategy
    if not isinstance(strategy, Sharding):
        name = component_name(strategy) or type(strategy).__name__
        raise UserError(
            Problem(
                key="strategy",
                what=f"`{name}` doesn't say what each device holds, so nothing can be planned",
                hint="write strategy: ddp",
            )
        )
    return strategy.shares(
        plan.world.num_processes,
        weights_dtype=plan.weights_dtype,
        products_dtype=plan.autocast_dtype or plan.weights_dtype,
    )
