"""A run's parts -> the passes that its trainer needs."""

from __future__ import annotations

from accelerate import Accelerator

from framework.core.protocols.strategies import Spread
from framework.core.protocols.training import Online
from framework.data.prepared import PreparedData
from framework.engine.feed import Feed
from framework.engine.online import AnswerPasses
from framework.engine.passes import DataPasses, Passes
from framework.engine.reference import References
from framework.models.policy import CausalPolicy
from framework.planning.plan import Plan
from framework.runs.run_directory import RunDirectory


def make_passes(
    plan: Plan,
    data: PreparedData,
    accelerator: Accelerator,
    spread: Spread,
    policy: CausalPolicy,
    references: References,
    feed: Feed,
    directory: RunDirectory,
) -> Passes:
    """Over answers that the model gives, or over the data."""
    method = plan.recipe.trainer.method
    if isinstance(method, Online):
        reference = references.train
        return AnswerPasses(
            plan, data, method, accelerator, spread, policy, reference, feed, directory
        )
    return DataPasses(
        accelerator=accelerator,
        spread=spread,
        policy=policy,
        references=references,
        method=method,
        pass_size=plan.pass_size,
        feed=feed,
    )
