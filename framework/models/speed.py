"""Settings of speed and a device -> what is switched on, and the sentences that say so."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Linear, Module
from transformers import AttentionInterface, PreTrainedModel

from framework.attention.attention import reads_boundaries
from framework.core.problems import Problem, UserError
from framework.fused.fused_gate import fuse_gates
from framework.fused.fused_norm import fuse_norms
from framework.fused.fused_rotary import fuse_rotary
from framework.models.layers import layers_of
from framework.models.peft_models import is_peft_model

if TYPE_CHECKING:
    from torchao.float8 import Float8LinearConfig

    from framework.recipe.schema import Model

MIN_TF32_CAPABILITY = (8, 0)
MIN_FLOAT8_CAPABILITY = (8, 9)


def speed_up(model: PreTrainedModel, settings: Model, device: str) -> Iterator[str]:
    """Before an adapter stands in the model: what changes its layers.

    Raises:
        UserError: what the recipe asks for can't run here.
    """
    if settings.tf32:
        yield _allow_tf32(device)
    yield _apply_liger(model, settings, device)
    if settings.float8:
        obstacle = _float8_obstacle(device)
        if obstacle:
            raise UserError(
                Problem(
                    key="model.float8",
                    what=f"can't run: {obstacle}",
                    hint="write `float8: false`, or train on a GPU of compute capability 8.9",
                )
            )
        yield convert_to_float8(model)


def fuse(model: Module, settings: Model, device: str, *, shared_out: bool) -> str:
    """Once an adapter stands in the model: on a CPU, parts of layers are computed in fewer passes
    over their activations, to the same result.

    Args:
        shared_out: whether weights are, so that a layer must be run to have its own.
    """
    obstacle = _fusing_obstacle(settings, device, shared_out=shared_out)
    if obstacle:
        return f"fused: nothing, {obstacle}"
    found = {
        "norms": fuse_norms(model),
        "gates": fuse_gates(model),
        "rotary embeddings": fuse_rotary(model),
    }
    if is_peft_model(model):
        from framework.fused.fused_lora import fuse_lora

        found["LoRA layers"] = fuse_lora(model)
    parts = [f"{number} {name}" for name, number in found.items() if number]
    if not parts:
        return "fused: nothing, this model has no layers of Llama's kind and no plain LoRA layers"
    return f"fused on CPU: {', '.join(parts)}"


def _fusing_obstacle(settings: Model, device: str, *, shared_out: bool) -> str:
    """Why layers are left as they are, empty where they needn't be."""
    checkpointing = settings.checkpointing
    if device != "cpu":
        return f"the device is {device}"
    if shared_out:
        return "weights are shared out"
    if settings.compile:
        return "layers are compiled"
    if checkpointing is not None and checkpointing.keep == "products":
        return "products are kept as they are computed"
    return ""


def compile_layers(model: PreTrainedModel) -> str:
    """Compiles each layer when it is first run; attention stays as it is, for its number of
    documents differs from row to row."""
    layers = layers_of(model, "model.compile").modules
    name = model.config._attn_implementation
    if name is not None and reads_boundaries(name):
        kernel: Any = torch.compiler.disable(AttentionInterface()[name])
        AttentionInterface.register(name, kernel)
    for layer in layers:
        layer.compile(dynamic=True)
    return f"compile: {len(layers)} layers, in the first steps"


def _allow_tf32(device: str) -> str:
    if not device.startswith("cuda"):
        return f"tf32: does nothing, the device is {device}"
    capability = torch.cuda.get_device_capability()
    if capability < MIN_TF32_CAPABILITY:
        return f"tf32: does nothing, the GPU's compute capability is {_dotted(capability)}, not 8.0"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return "tf32: on, float32 products have inputs of 10 bits"


def _apply_liger(model: PreTrainedModel, settings: Model, device: str) -> str:
    if settings.liger is False:
        return "liger kernels: off, as the recipe says"
    obstacle = _liger_obstacle(model, device)
    if obstacle and settings.liger is True:
        raise UserError(
            Problem(
                key="model.liger",
                what=f"can't run: {obstacle}",
                hint="write `liger: auto`, or pip install 'framework[liger]' on a machine with a "
                "GPU",
            )
        )
    if obstacle:
        return f"liger kernels: off, {obstacle}"
    from transformers.integrations.liger import apply_liger_kernel

    # The head and the loss are ours: they run at trained positions only.
    apply_liger_kernel(model, {"fused_linear_cross_entropy": False, "cross_entropy": False})
    return "liger kernels: on"


def _liger_obstacle(model: PreTrainedModel, device: str) -> str:
    """Why Liger's kernels can't run here, empty when they can."""
    if not device.startswith("cuda"):
        return f"the device is {device}"
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package 'liger-kernel' is not installed"
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
    )

    kind = model.config.model_type
    return "" if kind in MODEL_TYPE_TO_APPLY_LIGER_FN else f"it has none for {kind}"


def _float8_obstacle(device: str) -> str:
    """Why products can't be computed in 8 bits here, empty when they can."""
    if not device.startswith("cuda"):
        return f"the device is {device}"
    capability = torch.cuda.get_device_capability()
    if capability < MIN_FLOAT8_CAPABILITY:
        return f"the GPU's compute capability is {_dotted(capability)}, it needs 8.9"
    if importlib.util.find_spec("torchao") is None:
        return "the package 'torchao' is not installed: pip install 'framework[torchao]'"
    return ""


def convert_to_float8(model: PreTrainedModel, config: Float8LinearConfig | None = None) -> str:
    """Linear layers but the output layer compute in 8 bits; their weights stay what they are.

    Args:
        config: torchao's, for trying it without such a GPU.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # Rows of any number of tokens: the kernel takes multiples of 16 alone.
    config = config or Float8LinearConfig(pad_inner_dim=True)
    head = model.get_output_embeddings()
    converted: list[str] = []

    def takes(module: Module, path: str) -> bool:
        if not isinstance(module, Linear) or module is head:
            return False
        fits = module.in_features % 16 == 0 and module.out_features % 16 == 0
        converted.extend([path] if fits else [])
        return fits

    convert_to_float8_training(model, module_filter_fn=takes, config=config)
    return f"float8: {len(converted)} linear layers compute in 8 bits"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
