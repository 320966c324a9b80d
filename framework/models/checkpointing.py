"""Settings of gradient checkpointing -> a model that computes activations again when needed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from framework.core.problems import Problem, UserError
from framework.models.layers import layers_of
from framework.recipe.schema import GradientCheckpointing

_ATEN = torch.ops.aten
PRODUCTS = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
    }
)
"""What takes most of a layer's time."""


def checkpoint_gradients(model: PreTrainedModel, settings: GradientCheckpointing) -> str:
    """Switches it on, before or after an adapter stands in the model; returns what is done.

    Raises:
        UserError: the architecture can't.
    """
    arguments: dict[str, Any] = {"use_reentrant": False}
    if settings.keep == "products":
        arguments["context_fn"] = functools.partial(
            create_selective_checkpoint_contexts, _keep_products
        )
    try:
        model.gradient_checkpointing_enable(arguments)
    except ValueError as error:
        raise UserError(
            Problem(
                key="model.gradient_checkpointing",
                what=f"{type(model).__name__} can't: {error}",
                hint="write `gradient_checkpointing: false`",
            )
        ) from error
    layers = layers_of(model, "model.gradient_checkpointing").modules
    num_checkpointed = len(layers)
    if settings.every_layers > 1:
        num_checkpointed = _leave_out(model, layers, settings.every_layers)
    kept = {"inputs": "their inputs", "products": "inputs and matrix products"}[settings.keep]
    return (
        f"gradient checkpointing: {num_checkpointed} of {len(layers)} layers keep {kept} alone "
        "and compute the rest again"
    )


def _leave_out(
    model: PreTrainedModel, layers: tuple[torch.nn.Module, ...], every_layers: int
) -> int:
    """Switches it off for all layers but each so manyth; returns how many have it."""
    if every_layers > len(layers):
        raise UserError(
            Problem(
                key="model.gradient_checkpointing.every_layers",
                what=f"is {every_layers}, the model has {len(layers)} layers",
                hint=f"write a number up to {len(layers)}",
            )
        )
    num_checkpointed = 0
    for number, layer in enumerate(layers):
        if not isinstance(layer, GradientCheckpointingLayer):
            raise UserError(
                Problem(
                    key="model.gradient_checkpointing.every_layers",
                    what=f"the layers of {type(model).__name__} are checkpointed all or none",
                    hint="write `gradient_checkpointing: true`",
                )
            )
        layer.gradient_checkpointing = (number + 1) % every_layers == 0
        num_checkpointed += layer.gradient_checkpointing
    return num_checkpointed


def _keep_products(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operation in PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
