"""Recipe and world -> Plan: every derived number, computed once and never changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from framework.core.problems import Problem, UserError
from framework.core.protocols.strategies import ComputingTogether
from framework.core.registries import component_name
from framework.core.world import World
from framework.planning.passes import PassSize, pass_size
from framework.recipe.cadence import cadence_conflicts
from framework.recipe.comparisons import rows_hold_several_documents
from framework.recipe.optimization import num_warmup_steps
from framework.recipe.resolve import Resolved
from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, as far as it is known before its data is."""

    recipe: Recipe
    resolved: Resolved
    """The recipe's written values and their origins, for the report."""
    world: World
    output_dir: Path
    num_accumulation_steps: int | None
    """Forward passes of each device per optimizer step; None where their number depends on how long
    the samples of the step are."""
    weights_dtype: str
    """dtype that the model is loaded in; an adapter's own weights are float32 beside it."""
    autocast_dtype: str | None
    """dtype that matrix products are computed in; None: the weights' own."""
    notes: tuple[str, ...] = ()
    """What was decided in the recipe's place, and why."""

    @property
    def data_parallel_size(self) -> int:
        """Processes, or groups of them, that have data of their own."""
        return self.world.num_processes // num_together(self.recipe)

    @property
    def pass_size(self) -> PassSize:
        """What a forward pass has of a global batch."""
        return pass_size(self.recipe, self.world)

    def one_by_one(self, because: str = "") -> Plan | None:
        """With one document in each forward pass; None where `auto` doesn't decide that.

        Args:
            because: of what, for the log.

        Raises:
            UserError: so many processes can't share a global batch so.
        """
        trainer = self.recipe.trainer
        if self.pass_size.num_units is not None:
            return None
        recipe = replace(self.recipe, trainer=replace(trainer, micro_batch_size=1))
        if rows_hold_several_documents(recipe):
            return None
        if trainer.global_batch_size % self.data_parallel_size:
            raise UserError(_indivisible(recipe, 1, self.data_parallel_size))
        return replace(
            self,
            recipe=recipe,
            num_accumulation_steps=trainer.global_batch_size // self.data_parallel_size,
            notes=(*self.notes, f"trainer.micro_batch_size: auto is 1: {because}"),
        )

    @property
    def logits_bytes(self) -> int | None:
        """Most bytes of logits at a time; None where an output layer that may be shared out makes
        them all at once."""
        recipe = self.recipe
        whole = recipe.strategy.keeps_parameters_whole
        return recipe.model.logits_memory_mib << 20 if whole else None


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a run will do once the size of its data is known; steps are optimizer steps."""

    num_units: int | None
    """Samples, or packs, of one epoch; None for a stream, whose length nobody knows."""
    steps_per_epoch: int | None
    num_steps: int
    warmup_steps: int
    evaluate_every: int
    """0: only after the last step."""
    checkpoint_every: int


def make_plan(resolved: Resolved, world: World) -> Plan:
    """The plan of a resolved recipe in this world.

    Raises:
        UserError: the recipe can't be run by so many processes.
    """
    recipe = resolved.recipe
    _refuse_other_spreading(recipe, world)
    weights_dtype, autocast_dtype = _precision(recipe, world)
    _refuse_in_backward(recipe, world, autocast_dtype)
    _refuse_scaled(recipe, autocast_dtype)
    _refuse_leaving_out(recipe, autocast_dtype)
    together = num_together(recipe)
    if world.num_processes % together:
        raise UserError(_indivisible_processes(recipe, world))
    num_parts = world.num_processes // together
    num_units = pass_size(recipe, world).num_units
    whole, num_passes = recipe.trainer.global_batch_size, None
    if num_units is not None:
        num_passes, rest = divmod(whole, num_units * num_parts)
        if rest:
            raise UserError(_indivisible(recipe, num_units, num_parts))
    elif whole < num_parts:
        raise UserError(_too_few(recipe, num_parts))
    return Plan(
        recipe=recipe,
        resolved=resolved,
        world=world,
        output_dir=Path(recipe.output.dir).expanduser().absolute(),
        num_accumulation_steps=num_passes,
        weights_dtype=weights_dtype,
        autocast_dtype=autocast_dtype,
    )


def tensor_parallel_size(recipe: Recipe) -> int:
    """Processes that compute each layer together, from the same data."""
    strategy = recipe.strategy
    return strategy.tensor_parallel_size if isinstance(strategy, ComputingTogether) else 1


def sequence_parallel_size(recipe: Recipe) -> int:
    """Processes that compute each row together, a slice of its tokens each."""
    strategy = recipe.strategy
    return strategy.sequence_parallel_size if isinstance(strategy, ComputingTogether) else 1


def num_together(recipe: Recipe) -> int:
    """Processes that have the same data."""
    return tensor_parallel_size(recipe) * sequence_parallel_size(recipe)


def make_steps(recipe: Recipe, num_units: int | None) -> Steps:
    """The steps over `num_units` samples or packs; the last step of an epoch may be smaller.

    Without a number of units the recipe says the number of steps.
    """
    trainer = recipe.trainer
    per_epoch = None if num_units is None else math.ceil(num_units / trainer.global_batch_size)
    num_epochs = 1.0 if trainer.num_train_epochs is None else trainer.num_train_epochs
    total = trainer.max_steps or max(1, math.ceil(num_epochs * (per_epoch or 0)))
    evaluation, checkpoint = recipe.evaluation, recipe.checkpoint
    each = per_epoch or total
    return Steps(
        num_units=num_units,
        steps_per_epoch=per_epoch,
        num_steps=total,
        warmup_steps=min(num_warmup_steps(trainer, total), total),
        evaluate_every=_interval(evaluation.every_steps, evaluation.every_epochs, each, 0),
        checkpoint_every=_interval(checkpoint.every_steps, checkpoint.every_epochs, each, each),
    )


def refuse_cadence(recipe: Recipe, steps: Steps) -> None:
    """Refuses what this recipe would never compare or keep in so many steps.

    Raises:
        UserError: with every such setting.
    """
    problems = tuple(
        cadence_conflicts(recipe, steps.checkpoint_every, steps.evaluate_every, steps.num_steps)
    )
    if problems:
        raise UserError(problems)


def _interval(steps: int | None, epochs: float | None, per_epoch: int, default: int) -> int:
    if steps is not None:
        return steps
    return default if epochs is None else max(1, round(epochs * per_epoch))


def _indivisible_processes(recipe: Recipe, world: World) -> Problem:
    together = tensor_parallel_size(recipe)
    name, what = "tensor_parallel_size", "layers"
    if sequence_parallel_size(recipe) > 1:
        together = sequence_parallel_size(recipe)
        name, what = "sequence_parallel_size", "rows"
    plural = "es" * (world.num_processes > 1)
    return Problem(
        key=f"strategy.{name}",
        what=f"{world.num_processes} process{plural} can't compute {what} {together} at a time",
        hint=f"start a multiple of {together}, or write {name}: 1",
    )


def _indivisible(recipe: Recipe, part: int, num_parts: int) -> Problem:
    whole = recipe.trainer.global_batch_size
    per_pass = part * num_parts
    up = math.ceil(whole / per_pass) * per_pass
    return Problem(
        key="trainer.global_batch_size",
        what=f"{whole} can't be shared by {num_parts} {_groups(recipe)}processes of "
        f"micro_batch_size {part}",
        hint=f"write global_batch_size: {up}, or start another number of processes",
    )


def _too_few(recipe: Recipe, num_parts: int) -> Problem:
    whole = recipe.trainer.global_batch_size
    return Problem(
        key="trainer.global_batch_size",
        what=f"{whole} can't be shared by {num_parts} {_groups(recipe)}processes",
        hint=f"write global_batch_size: {num_parts}, or start fewer processes",
    )


def _groups(recipe: Recipe) -> str:
    together = num_together(recipe)
    return f"groups of {together} " if together > 1 else ""


def _refuse_other_spreading(recipe: Recipe, world: World) -> None:
    """How a model is spread is said in one place."""
    if world.spread_by:
        name = component_name(recipe.strategy)
        raise UserError(
            Problem(
                key="strategy",
                what=f"the recipe's strategy is `{name}`, and the launcher brings settings of its "
                f"own ({world.spread_by}=true)",
                hint="start it with `accelerate launch --multi_gpu`, whose settings leave that to "
                "the recipe",
            )
        )


def _refuse_in_backward(recipe: Recipe, world: World, autocast_dtype: str | None) -> None:
    """Steps within the backward pass need whole gradients, as large as they are."""
    if not recipe.trainer.optimizer_in_backward:
        return
    reason = ""
    if world.num_processes > 1:
        reason = f"gradients of {world.num_processes} processes are added after the backward pass"
    elif autocast_dtype == "float16":
        reason = "float16 gradients are scaled, and checked as a whole before a step"
    if reason:
        raise UserError(
            Problem(
                key="trainer.optimizer_in_backward",
                what=reason,
                hint="write optimizer_in_backward: false",
            )
        )


def _refuse_scaled(recipe: Recipe, autocast_dtype: str | None) -> None:
    """float16 gradients are scaled, and checked as a whole before a step."""
    if autocast_dtype == "float16" and not recipe.strategy.keeps_parameters_whole:
        name = component_name(recipe.strategy)
        raise UserError(
            Problem(
                key="model.dtype",
                what="this device computes in float16, whose gradients are scaled and checked as a "
                f"whole; with `strategy: {name}` no process holds them whole",
                hint="write dtype: float32, or strategy: ddp",
            )
        )


def _refuse_leaving_out(recipe: Recipe, autocast_dtype: str | None) -> None:
    """float16 gradients are scaled by what leaves steps out itself."""
    found = [key for key, remedy in recipe.trainer.remedies.items() if remedy != "stop"]
    if autocast_dtype == "float16" and found:
        raise UserError(
            Problem(
                key=found[0],
                what="this device computes in float16, where steps whose scaled gradients overflow "
                "are left out already, and others can't be",
                hint="write stop, or model.dtype: float32",
            )
        )


def _precision(recipe: Recipe, world: World) -> tuple[str, str | None]:
    """(dtype of the loaded weights, dtype of matrix products if it is another).

    A dtype that the recipe names is kept to the letter: float32 is float32 throughout.
    """
    asked = recipe.model.dtype
    if asked == "float32":
        return "float32", None
    if asked != "auto":
        return asked, asked
    if world.fast_bfloat16:
        fast = "bfloat16"
    elif world.device == "cuda":
        fast = "float16"
    else:
        return "float32", None
    # Trained weights stay in float32: in 16 bits, small updates round to nothing.
    return ("float32" if recipe.adapter.trains_all_weights else fast), fast
