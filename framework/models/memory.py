"""Settings of memory -> a model that keeps fewer activations, or keeps them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from framework.models.checkpointing import checkpoint_gradients
from framework.models.offload import offload_activations
from framework.models.speed import compile_layers

if TYPE_CHECKING:
    from framework.recipe.schema import Model


def save_memory(model: PreTrainedModel, settings: Model, device: str) -> Iterator[str]:
    """Once an adapter stands in the model: how its layers are run; yields what is done.

    Raises:
        UserError: the architecture can't.
    """
    if settings.checkpointing is not None:
        yield checkpoint_gradients(model, settings.checkpointing)
    if settings.activation_offload:
        yield offload_activations(model, device)
    if settings.compile:
        yield compile_layers(model)
