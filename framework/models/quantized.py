"""Quantizer and folder -> a model with quantised weights, their true number, and a plain copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers.base import get_keys_to_not_convert

from framework.core.protocols.models import Quantizer, Quantizes, ReadsCheckpoint, RoundsActivations
from framework.models.heads import HEAD_NAMES
from framework.recipe.quantization import written_quantization


def loading_arguments(
    quantizer: Quantizer | None, folder: Path, compute_dtype: str, device: str
) -> dict[str, Any]:
    """What `from_pretrained` needs besides, so that weights are quantised as they are read."""
    config = None
    if isinstance(quantizer, ReadsCheckpoint) and written_quantization(folder) is not None:
        config = quantizer.checkpoint_config()
    elif isinstance(quantizer, Quantizes):
        config = quantizer.config(compute_dtype, _output_layers(folder))
    else:
        return {}
    # Onto the device at once: the whole weights may be more than it holds.
    given = {} if config is None else {"quantization_config": config}
    return {**given, "device_map": {"": device}}


def _output_layers(folder: Path) -> list[str]:
    """Names of the output layer and of what is tied to it."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sorted({*get_keys_to_not_convert(model), *HEAD_NAMES})


def count_parameters(model: Module, quantizer: Quantizer | None) -> tuple[int, int]:
    """(numbers in the model, how many of them are held by the quantizer).

    A quantised weight counts as the numbers that it stands for, however it is packed, and shared
    weights count once.
    """
    seen: set[int] = set()
    total = quantized = 0
    for module in model.modules():
        held = quantizer is not None and quantizer.holds(module)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if not (held and name == "weight"):
                total += parameter.numel()
        if held:
            numbers = _num_weights(module)
            total, quantized = total + numbers, quantized + numbers
    return total, quantized


def _num_weights(module: Any) -> int:
    return int(module.in_features) * int(module.out_features)


def keep_to_each_process(model: Module, quantizer: Quantizer) -> None:
    """Tells DDP not to send frozen quantised weights, whose tensors can't all be sent.

    Every process reads the same files.
    """
    if not quantizer.freezes_weights:
        return
    held = (name for name, module in model.named_modules() if quantizer.holds(module))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, [f"{name}.weight" for name in held]
    )


def plain_copy(model: PreTrainedModel, quantizer: Quantizer) -> PreTrainedModel:
    """A float32 model on the CPU without a quantizer, with the weights that the quantised ones
    stand for."""
    config = type(model.config).from_dict(
        {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    )
    with torch.random.fork_rng():
        plain = type(model)._from_config(
            config, dtype=torch.float32, attn_implementation=model.config._attn_implementation
        )
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            owner, _, last = name.rpartition(".")
            module = model.get_submodule(owner)
            held = last == "weight" and quantizer.holds(module)
            weight = quantizer.dequantized(module) if held else module.get_parameter(last)
            parameter.copy_(weight)
    return plain.eval()


@contextmanager
def weights_alone(model: Module, quantizer: Quantizer | None) -> Iterator[None]:
    """Inputs of layers are not rounded: what differs then is the weights' or the attention's."""
    if not isinstance(quantizer, RoundsActivations):
        yield
        return
    quantizer.round_activations(model, on=False)
    try:
        yield
    finally:
        quantizer.round_activations(model, on=True)


def settle_dtypes(
    model: PreTrainedModel, quantizer: Quantizer, dtype: torch.dtype, compute_dtype: torch.dtype
) -> None:
    """Gives the weights of a checkpoint that was quantised before the dtypes of this run.

    The files name the dtype that was computed in when they were made, and of some quantizers
    transformers leaves also the other weights in the files' dtype.

    Args:
        dtype: of weights that are not quantised.
        compute_dtype: of matrix products with quantised weights.
    """
    by_part = model._get_dtype_plan(dtype)
    for path, module in model.named_modules():
        held = quantizer.holds(module)
        if held:
            quantizer.compute_in(module, compute_dtype)
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.is_floating_point() and not (held and name.endswith(".weight")):
                demanded = (by_part[part] for part in by_part if part in name)
                parameter.data = parameter.data.to(next(demanded, dtype))


def compute_in(model: PreTrainedModel, quantizer: Quantizer, dtype: torch.dtype) -> None:
    """Casts everything but the bits of quantised weights, so that products are of that dtype."""
    for module in model.modules():
        held = quantizer.holds(module)
        if held:
            quantizer.compute_in(module, dtype)
        for name, parameter in module.named_parameters(recurse=False):
            if not (held and name == "weight"):
                parameter.data = parameter.data.to(dtype)
