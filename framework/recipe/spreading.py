"""What a recipe can't have where no process holds the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.protocols.models import (
    LookingAround,
    Penalising,
    Prefixing,
    Remembering,
    Stepping,
)
from framework.core.protocols.training import AveragingWeights, Comparing, Elementwise, Online
from framework.core.registries import component_name, registry

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


def spreading_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Everything that reads or changes whole parameters, where the strategy shares them out."""
    strategy = recipe.strategy
    if strategy.keeps_parameters_whole:
        return
    name = component_name(strategy)
    yield from _adapter(recipe, f"`strategy: {name}`")
    yield from _optimizer(recipe, f"`strategy: {name}`", parts=strategy.parts_are_parameters)
    yield from _trainer(recipe, f"`strategy: {name}`")
    yield from _memory(recipe, f"`strategy: {name}`")


def _adapter(recipe: Recipe, spread: str) -> Iterator[Problem]:
    adapter = recipe.adapter
    reason = ""
    if isinstance(adapter, Prefixing):
        reason = "puts weights of its own before the model, outside of all layers"
    elif isinstance(adapter, Stepping):
        reason = "reads or changes whole weights at each step"
    elif isinstance(adapter, Penalising):
        reason = "has a loss of its own, over whole weights"
    elif isinstance(adapter, Remembering):
        reason = "remembers more than its weights"
    elif isinstance(adapter, LookingAround) and adapter.num_first_samples():
        reason = "starts from what whole weights make of training data"
    if reason:
        yield Problem(
            key="adapter",
            what=f"`{component_name(adapter)}` {reason}, and with {spread} no process holds them "
            "whole",
            hint="write `adapter: lora`, or `strategy: ddp`",
        )


def _optimizer(recipe: Recipe, spread: str, *, parts: bool) -> Iterator[Problem]:
    """
    Args:
        parts: what a process holds of a parameter is one.
    """
    trainer = recipe.trainer
    optimizer, name = trainer.optimizer, component_name(trainer.optimizer)
    if isinstance(optimizer, AveragingWeights) and not parts:
        yield Problem(
            key="trainer.optimizer",
            what=f"`{name}` puts an average in the place of whole weights, and with {spread} no "
            "process holds them whole",
            hint="write `optimizer: adamw`, or `strategy: ddp`, or `fsdp`",
        )
    elif not (isinstance(optimizer, Elementwise) and optimizer.steps_numbers_apart):
        yield Problem(
            key="trainer.optimizer",
            what=f"`{name}` steps a weight by more than the gradient of each of its numbers, and "
            f"with {spread} a process holds a part of them",
            hint=f"write {_elementwise()}, or `strategy: ddp`",
        )
    if trainer.optimizer_in_backward:
        yield Problem(
            key="trainer.optimizer_in_backward",
            what=f"with {spread} gradients are complete and shared out after the backward pass",
            hint="write optimizer_in_backward: false",
        )


def _elementwise() -> str:
    kinds = registry("optimizers")
    names = [
        name
        for name in kinds.names()
        if isinstance(kind := kinds.get(name), Elementwise)
        and kind.steps_numbers_apart
        and not isinstance(kinds.get(name), AveragingWeights)
    ]
    return " or ".join(f"`optimizer: {name}`" for name in names)


def _trainer(recipe: Recipe, spread: str) -> Iterator[Problem]:
    method = recipe.trainer.method
    if isinstance(method, Online):
        yield Problem(
            key="strategy",
            what=f"`{component_name(method)}` lets the model answer while it is trained, and with "
            f"{spread} no process holds it whole",
            hint="write strategy: ddp",
        )
    comparison = method.compared_with() if isinstance(method, Comparing) else None
    if comparison is None or comparison.source is not None or comparison.precompute:
        return
    if recipe.adapter.trains_all_weights:
        yield Problem(
            key="trainer.precompute_reference",
            what=f"`{component_name(method)}` compares with a second copy of the model, which "
            f"{spread} would leave whole on each device",
            hint="write precompute_reference: true, or `adapter: lora`, which is switched off to "
            "compare",
        )


def _memory(recipe: Recipe, spread: str) -> Iterator[Problem]:
    if recipe.model.dtype == "float16":
        yield Problem(
            key="model.dtype",
            what=f"float16 gradients are scaled, and checked as a whole before a step; with "
            f"{spread} no process holds them whole",
            hint="write dtype: bfloat16, or float32",
        )
    if recipe.model.activation_offload:
        yield Problem(
            key="model.activation_offload",
            what=f"would move the weights of each layer too, which {spread} gathers and frees",
            hint="write `gradient_checkpointing: true` instead",
        )
