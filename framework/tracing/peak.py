"""Plan -> the micro-batch that takes most memory, and what each device then holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from framework.planning.memory import Memory, peak_memory
from framework.planning.plan import Plan, sequence_parallel_size, tensor_parallel_size
from framework.tracing.build import Empty, empty_model, model_key
from framework.tracing.lengths import Lengths
from framework.tracing.shares import shares_of
from framework.tracing.trace import Trace, trace

NEAR = 0.95
"""Share of a device's memory above which fragments may decide."""


def predicted_memory(plan: Plan, folder: Path, lengths: Lengths, context_bytes: int = 0) -> Memory:
    """The peak of each process of a run."""
    heaviest = Traces(folder).heaviest(plan, lengths)
    return peak_memory(heaviest.memory, shares_of(plan), context_bytes)


class Traces:
    """Traces of a model, each made once: strategies differ in what a device holds of one.

    Args:
        folder: the model's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._models: list[tuple[tuple[Any, ...], Empty]] = []
        self._made: list[tuple[tuple[Any, ...], list[Trace]]] = []

    def heaviest(self, plan: Plan, lengths: Lengths) -> Trace:
        """The trace of the micro-batch that takes most memory."""
        shares = shares_of(plan)
        found = self._of(plan, lengths)
        return max(found, key=lambda one: peak_memory(one.memory, shares).peak)

    def _of(self, plan: Plan, lengths: Lengths) -> list[Trace]:
        key = (
            replace(plan.recipe, strategy=_ANY),
            plan.recipe.strategy.keeps_parameters_whole,
            shares_of(plan).gathered_dtype,
            tensor_parallel_size(plan.recipe),
            sequence_parallel_size(plan.recipe),
            lengths.most_passes == 1,
            plan.weights_dtype,
            plan.autocast_dtype,
            plan.world.torch_device,
            lengths.heaviest,
        )
        for made, traces in self._made:
            if made == key:
                return traces
        model = self._model(plan)
        alone = lengths.most_passes == 1
        traces = [trace(plan, model, batch, alone=alone) for batch in lengths.heaviest]
        self._made.append((key, traces))
        return traces

    def _model(self, plan: Plan) -> Empty:
        key = model_key(plan)
        for made, model in self._models:
            if made == key:
                return model
        model = empty_model(plan, self.folder)
        self._models.append((key, model))
        return model


_ANY: Any = None
"""In the place of a strategy that a trace doesn't depend on."""
