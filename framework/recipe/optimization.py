"""What the settings of optimization demand of each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.linear_pattern import PatternError, refuse_unbounded_name_pattern
from framework.core.problems import Problem
from framework.core.protocols.models import Stepping, TellingShapes, TrainingModules
from framework.core.protocols.training import AveragingWeights, Online
from framework.core.registries import component_name
from framework.recipe.micro_batches import AUTO

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe, Trainer


def optimization_conflicts(recipe: Recipe) -> Iterator[Problem]:
    """Every conflict between `trainer.optimizer` and what stands around it."""
    yield from _parameter_groups(recipe)
    yield from _in_backward(recipe)
    yield from _average(recipe)
    yield from _answers_left_out(recipe)


def num_warmup_steps(trainer: Trainer, num_steps: int) -> int:
    """Steps in which the learning rate is to rise, be they more than the run has."""
    if trainer.warmup_steps is not None:
        return trainer.warmup_steps
    return math.ceil((trainer.warmup_ratio or 0.0) * num_steps)


def warmup_notes(trainer: Trainer, num_steps: int) -> Iterator[Problem]:
    """A note where so many steps are over before the peak is reached."""
    warmup = num_warmup_steps(trainer, num_steps)
    if warmup >= num_steps:
        name = "warmup_ratio" if trainer.warmup_steps is None else "warmup_steps"
        length = f"longer than the run's {num_steps:,}" if warmup > num_steps else "the whole run"
        yield Problem(
            key=f"trainer.{name}",
            what=f"a warm-up of {warmup:,} steps is {length}: it is taken to end with the run, "
            f"which never trains at learning_rate {trainer.learning_rate:g}",
            hint=f"write {name}: {'0.1' if name == 'warmup_ratio' else num_steps // 10}",
        )


def no_skipping(recipe: Recipe, reason: str) -> Iterator[Problem]:
    """A problem where a batch is to be skipped, for what has taken a step by the time that it is
    known to be unusable."""
    yield from _remedies(recipe, ("skip",), reason, "write roll_back, or stop")


def _remedies(
    recipe: Recipe, refused: tuple[str, ...], reason: str, hint: str
) -> Iterator[Problem]:
    for key, remedy in recipe.trainer.remedies.items():
        if remedy in refused:
            yield Problem(key=key, what=f"{remedy} can't be done: {reason}", hint=hint)


def _answers_left_out(recipe: Recipe) -> Iterator[Problem]:
    if isinstance(recipe.trainer.method, Online):
        reason = "what is learned from are the model's own answers, not rows that could be left out"
        yield from _remedies(recipe, ("skip", "roll_back"), reason, "write stop")


def whole_matrices_only(recipe: Recipe, optimizer: str) -> Iterator[Problem]:
    """A problem where an adapter is trained, for optimizers that project gradients to low rank."""
    if not recipe.adapter.trains_all_weights:
        yield Problem(
            key="trainer.optimizer",
            what=f"{optimizer} projects the gradients of whole matrices; the adapter's are small",
            hint="write `optimizer: adamw`, or `adapter: full`",
        )


def matrices_inside_layers(recipe: Recipe, optimizer: str) -> Iterator[Problem]:
    """A problem where no matrix of a layer is trained, for optimizers that are about those."""
    adapter = recipe.adapter
    has_matrices = not isinstance(adapter, TellingShapes) or adapter.trains_matrices
    has_modules = isinstance(adapter, TrainingModules) and bool(adapter.modules_to_save)
    if not has_matrices and not has_modules:
        yield Problem(
            key="trainer.optimizer",
            what=f"{optimizer} has nothing to do: `{component_name(adapter)}` trains no matrix "
            "inside a layer",
            hint="write `optimizer: adamw`",
        )


def _parameter_groups(recipe: Recipe) -> Iterator[Problem]:
    for index, group in enumerate(recipe.trainer.parameter_groups):
        key = f"trainer.parameter_groups[{index}]"
        try:
            refuse_unbounded_name_pattern(group.pattern)
        except PatternError as error:
            usual = "write a part of the parameters' names, such as `embed_tokens`"
            yield Problem(key=f"{key}.pattern", what=str(error), hint=error.hint or usual)
        if group.learning_rate is not None and group.learning_rate_ratio is not None:
            yield Problem(
                key=f"{key}.learning_rate_ratio",
                what="says the same thing as `learning_rate`",
                hint="keep one of the two",
            )
        written = (group.learning_rate, group.learning_rate_ratio, group.weight_decay)
        if all(value is None for value in written):
            yield Problem(
                key=key,
                what="changes nothing",
                hint="write `learning_rate`, `learning_rate_ratio` or `weight_decay` beside it",
            )


def _in_backward(recipe: Recipe) -> Iterator[Problem]:
    """A step of each parameter alone, before the gradients of the others are known."""
    trainer = recipe.trainer
    if not trainer.optimizer_in_backward:
        return
    if trainer.max_grad_norm is not None:
        yield Problem(
            key="trainer.max_grad_norm",
            what="with optimizer_in_backward no norm is known before the steps are done",
            hint="write max_grad_norm: null",
        )
    if trainer.micro_batch_size not in (AUTO, trainer.global_batch_size):
        yield Problem(
            key="trainer.micro_batch_size",
            what="with optimizer_in_backward a step is one forward pass, and global_batch_size "
            f"{trainer.global_batch_size} would take several of {trainer.micro_batch_size}",
            hint="write micro_batch_size: auto",
        )
    yield from no_skipping(recipe, "with optimizer_in_backward parts of the step are taken by then")
    key = "trainer.optimizer_in_backward"
    if isinstance(trainer.optimizer, AveragingWeights):
        yield Problem(
            key=key,
            what=f"{component_name(trainer.optimizer)} steps all parameters at once",
            hint="write `optimizer: adamw`, or optimizer_in_backward: false",
        )
    if isinstance(recipe.adapter, Stepping):
        yield Problem(
            key=key,
            what=f"{component_name(recipe.adapter)} needs the gradients of a step after it",
            hint="write optimizer_in_backward: false",
        )


def _average(recipe: Recipe) -> Iterator[Problem]:
    trainer = recipe.trainer
    if trainer.ema is not None and isinstance(trainer.optimizer, AveragingWeights):
        yield Problem(
            key="trainer.ema",
            what=f"{component_name(trainer.optimizer)} averages the weights already",
            hint="remove it",
        )
