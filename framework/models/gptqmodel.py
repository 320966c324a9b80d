"""What gptqmodel reads -> what is asked of its layers; GPTQ's and AWQ's are of one class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.core.problems import UserError

if TYPE_CHECKING:
    from torch.nn import Module


def is_gptqmodel_layer(module: Module) -> bool:
    """Whether gptqmodel made it of a quantised linear layer."""
    from gptqmodel.nn_modules.qlinear import (  # pyright: ignore[reportMissingImports]
        BaseQuantLinear,
    )

    return isinstance(module, BaseQuantLinear)


def never_whole(weights: str) -> UserError:
    """Refusal of a merge into such weights.

    Args:
        weights: what quantised them, such as `AWQ`.
    """
    return UserError(
        f"an adapter over {weights} weights can't be merged: they can't be made whole again",
        hint="serve the checkpoint with the adapter in final/ beside it, or merge into the "
        "model that was quantised with peft and measure what it answers",
    )
