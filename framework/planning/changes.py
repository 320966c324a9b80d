"""A recipe that doesn't fit -> recipes that need less memory, the least change first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from framework.core.registries import component_name, registry
from framework.recipe.micro_batches import units_of_a_pass
from framework.recipe.resolve import conflicts_in
from framework.recipe.schema import GradientCheckpointing, Recipe


@dataclass(frozen=True, kw_only=True)
class Change:
    """Lines to write, and the recipe with them."""

    lines: tuple[str, ...]
    recipe: Recipe

    def then(self, other: Change) -> Change:
        """Both."""
        kept = tuple(line for line in self.lines if _key(line) not in map(_key, other.lines))
        return Change(lines=(*kept, *other.lines), recipe=other.recipe)


def _key(line: str) -> str:
    return line.partition(":")[0]


Step = Callable[[Recipe, int], "Change | None"]


def changes(recipe: Recipe, num_devices: int) -> Iterator[Change]:
    """Each that is possible alone, then all together, one more at a time.

    What leaves the result as it is comes first; then what rounds the optimizer's state; then what
    trains fewer weights.
    """
    possible = [change for step in STEPS if (change := _tried(step, recipe, num_devices))]
    yield from possible
    together = Change(lines=(), recipe=recipe)
    for step in STEPS:
        change = _tried(step, together.recipe, num_devices)
        if change is None:
            continue
        together = together.then(change)
        if len(together.lines) > 1:
            yield together


def free_changes(recipe: Recipe) -> Iterator[Change]:
    """Those that leave the result and the strategy as they are, each alone."""
    for step in (_checkpointing, _smaller_passes):
        change = _tried(step, recipe, 1)
        if change is not None:
            yield change


def _tried(step: Step, recipe: Recipe, num_devices: int) -> Change | None:
    """None where it changes nothing, or breaks another rule."""
    change = step(recipe, num_devices)
    if change is None or change.recipe == recipe:
        return None
    before = {str(one) for one in conflicts_in(recipe, config_only=True)}
    after = conflicts_in(change.recipe, config_only=True)
    return change if all(str(one) in before for one in after) else None


def _checkpointing(recipe: Recipe, num_devices: int) -> Change | None:
    if recipe.model.checkpointing == GradientCheckpointing():
        return None
    model = replace(recipe.model, gradient_checkpointing=True)
    return Change(
        lines=("model.gradient_checkpointing: true",), recipe=replace(recipe, model=model)
    )


def _smaller_passes(recipe: Recipe, num_devices: int) -> Change | None:
    units = units_of_a_pass(recipe)
    if units is not None and units.number == 1:
        return None
    trainer = replace(recipe.trainer, micro_batch_size=1)
    return Change(lines=("trainer.micro_batch_size: 1",), recipe=replace(recipe, trainer=trainer))


def _strategy(name: str) -> Step:
    def step(recipe: Recipe, num_devices: int) -> Change | None:
        if num_devices == 1:
            return None
        strategy: Any = registry("strategies").get(name)()
        return Change(lines=(f"strategy: {name}",), recipe=replace(recipe, strategy=strategy))

    return step


def _strategy_with(name: str, key: str, value: Any) -> Step:
    """One of its settings, beside those that are there."""

    def step(recipe: Recipe, num_devices: int) -> Change | None:
        if num_devices == 1:
            return None
        plain: Any = registry("strategies").get(name)()
        before: Any = recipe.strategy if component_name(recipe.strategy) == name else plain
        strategy = replace(before, **{key: value})
        others = {one: now for one, now in vars(strategy).items() if now != vars(plain)[one]}
        written = ", ".join(f"{one}: {_yaml(now)}" for one, now in others.items())
        return Change(
            lines=(f"strategy: {{type: {name}, {written}}}",),
            recipe=replace(recipe, strategy=strategy),
        )

    return step


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _eight_bit_optimizer(recipe: Recipe, num_devices: int) -> Change | None:
    if component_name(recipe.trainer.optimizer) != "adamw":
        return None
    optimizer: Any = registry("optimizers").get("adamw_8bit")()
    trainer = replace(recipe.trainer, optimizer=optimizer)
    return Change(lines=("trainer.optimizer: adamw_8bit",), recipe=replace(recipe, trainer=trainer))


def _lora(recipe: Recipe, num_devices: int) -> Change | None:
    if not recipe.adapter.trains_all_weights:
        return None
    adapter: Any = registry("adapters").get("lora")()
    return Change(lines=("adapter: lora",), recipe=replace(recipe, adapter=adapter))


def _four_bits(recipe: Recipe, num_devices: int) -> Change | None:
    if recipe.model.quantization is not None:
        return None
    lora = _lora(recipe, num_devices)
    lines, recipe = ((), recipe) if lora is None else (lora.lines, lora.recipe)
    quantizer: Any = registry("quantizers").get("bitsandbytes_4bit")()
    return Change(
        lines=(*lines, "model.quantization: bitsandbytes_4bit"),
        recipe=replace(recipe, model=replace(recipe.model, quantization=quantizer)),
    )


STEPS: tuple[Step, ...] = (
    _checkpointing,
    _smaller_passes,
    _strategy("fsdp"),
    _strategy_with("fsdp", "sequence_parallel_size", 2),
    _strategy_with("fsdp", "sequence_parallel_size", 4),
    _strategy_with("fsdp", "sequence_parallel_size", 8),
    _eight_bit_optimizer,
    _strategy_with("fsdp", "cpu_offload", True),
    _lora,
    _four_bits,
)
