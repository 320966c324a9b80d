"""Plan -> the micro-batch that takes most memory, and what each device then holds."""

from __future__ import annotations

from pathlib import Path

from framework.core.problems import Problem, UserError
from framework.core.protocols.sharding import Sharding, Shares
from framework.core.registries import component_name
from framework.planning.memory import Memory, peak_memory
from framework.planning.plan import Plan
from framework.tracing.lengths import Lengths
from framework.tracing.trace import Trace, trace

NEAR = 0.95
"""Share of a device's memory above which fragments may decide."""


def predicted_memory(plan: Plan, folder: Path, lengths: Lengths, context_bytes: int = 0) -> Memory:
    """The peak of each process of a run."""
    shares = shares_of(plan)
    found = [
        peak_memory(trace(plan, folder, batch).memory, shares, context_bytes)
        for batch in lengths.heaviest
    ]
    return max(found, key=lambda memory: memory.peak)


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


def heaviest(plan: Plan, folder: Path, lengths: Lengths) -> Trace:
    """The trace of the micro-batch that takes most memory."""
    shares = shares_of(plan)
    found = [trace(plan, folder, batch) for batch in lengths.heaviest]
    return max(found, key=lambda one: peak_memory(one.memory, shares).peak)
