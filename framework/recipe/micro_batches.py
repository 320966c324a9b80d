"""Recipe -> how many units of a global batch a forward pass has, where something fixes that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from framework.core.protocols.training import InCompany, Online

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

AUTO: Literal["auto"] = "auto"


class Units(NamedTuple):
    """A number of samples, or of packs."""

    number: int
    reason: str = ""
    """Why `auto` is this number; empty where the recipe has a number."""


def units_of_a_pass(recipe: Recipe) -> Units | None:
    """Those of each forward pass; None: as many as have a known number of tokens."""
    trainer, model = recipe.trainer, recipe.model
    if trainer.micro_batch_size != AUTO:
        return Units(trainer.micro_batch_size)
    if trainer.optimizer_in_backward:
        return Units(
            trainer.global_batch_size, "with optimizer_in_backward a step is one forward pass"
        )
    if model.attention == "eager":
        return Units(1, "eager attention takes one document at a time")
    if model.rope_scaling is not None and model.rope_scaling.type == "dynamic":
        return Units(1, "with `dynamic` a document's rotations depend on the longest one beside it")
    if isinstance(trainer.method, Online):
        return Units(1, "how long answers will be is not known")
    return None


def depends_on_passes(recipe: Recipe) -> bool:
    """Whether which samples share a forward pass decides more than how sums are rounded."""
    method = recipe.trainer.method
    if isinstance(method, Online):
        return True
    return isinstance(method, InCompany) and method.depends_on_company()
