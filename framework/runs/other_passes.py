"""Another `micro_batch_size` than a run was started with -> what becomes of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.recipe.micro_batches import AUTO, depends_on_passes, units_of_a_pass
from framework.runs.changed_settings import ChangedSetting

if TYPE_CHECKING:
    from torch.nn import Module

    from framework.recipe.schema import Recipe

MICRO_BATCH_SIZE = "trainer.micro_batch_size"


def rounds_otherwise_alone(changed: ChangedSetting, recipe: Recipe) -> bool:
    """Whether sums are rounded otherwise, and what is learned is the same."""
    was, now = (_number(value, recipe) for value in (changed.was, changed.now))
    return was == now or not depends_on_passes(recipe)


def _number(written: str, recipe: Recipe) -> int | None:
    size = int(written) if written.isdecimal() else AUTO
    trainer = replace(recipe.trainer, micro_batch_size=size)
    units = units_of_a_pass(replace(recipe, trainer=trainer))
    return None if units is None else units.number


def drawn_otherwise(changed: Sequence[str], model: Module) -> Iterator[str]:
    """A line for the log where more than rounding follows, for a model with dropout.

    Args:
        changed: what is not as the run was started, as it is said.
    """
    from torch.nn import Dropout

    is_drawn = any(isinstance(one, Dropout) and one.p > 0 for one in model.modules())
    if is_drawn and any(one.startswith(f"{MICRO_BATCH_SIZE}:") for one in changed):
        yield (
            f"{MICRO_BATCH_SIZE}: dropout is drawn for each forward pass, so otherwise from here on"
        )
