"""Model's configuration and recipe -> the model that will be trained, without numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Linear, Module, Parameter
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, PreTrainedModel

from framework.attention.attention import SEGMENTED_SDPA, register
from framework.core.heads import head_of
from framework.core.problems import Problem, UserError
from framework.core.protocols.models import LookingAround, Packing, Quantizer, StartingPlain
from framework.models.heads import HEAD_NAMES, auto_class, head_arguments, prepare_head
from framework.models.load import DTYPES
from framework.models.memory import save_memory
from framework.models.quiet import quiet
from framework.models.rope import rope_arguments
from framework.models.speed import fuse
from framework.models.tensor_parallel import TensorGroup, cut_layers
from framework.planning.plan import Plan, tensor_parallel_size
from framework.recipe.quantization import quantizer_of, written_quantization


@dataclass(frozen=True, kw_only=True)
class Empty:
    """A model on the meta device, its adapter applied."""

    model: Module
    plain: PreTrainedModel
    """The model inside the adapter."""
    quantizer: Quantizer | None
    num_vocabulary: int
    group: TensorGroup
    """Of devices that compute layers together; nothing is exchanged."""
    cut: frozenset[str]
    """Names of weights of which a device has one of the group's parts."""


def model_key(plan: Plan) -> tuple[Any, ...]:
    """Equal for plans that have the same model, as `empty_model` makes it."""
    recipe = plan.recipe
    device, whole = plan.world.torch_device, recipe.strategy.keeps_parameters_whole
    return (
        replace(recipe.model, logits_memory_mib=1),
        recipe.adapter,
        tensor_parallel_size(recipe),
        head_of(recipe),
        plan.weights_dtype,
        plan.autocast_dtype,
        (device, whole) if device == "cpu" else device,
    )


def empty_model(plan: Plan, folder: Path, attention: str = SEGMENTED_SDPA) -> Empty:
    """The model of the folder's config.json as it is trained.

    Raises:
        UserError: transformers doesn't know the architecture, or the adapter doesn't fit it.
    """
    recipe = plan.recipe
    register(attention)
    model = _language_model(plan, folder, attention)
    quantizer = quantizer_of(recipe, folder)
    if quantizer is not None and not quantizer.freezes_weights:
        quantizer.prepare(model)
    adapter = recipe.adapter
    if isinstance(adapter, LookingAround) and isinstance(adapter, StartingPlain):
        adapter = adapter.starting_plain()
    with quiet(), _Undrawn():
        trained = adapter.apply(model)
    if isinstance(quantizer, Packing) and quantizer.freezes_weights:
        written = written_quantization(folder) or {}
        dtype = DTYPES[plan.autocast_dtype or plan.weights_dtype]
        _pack(trained, model, quantizer, quantizer.bits_per_weight(written), dtype)
    with quiet():
        for _ in save_memory(model, recipe.model, "cpu"):
            pass
    shared_out = not recipe.strategy.keeps_parameters_whole
    fuse(trained, recipe.model, plan.world.torch_device, shared_out=shared_out)
    group = TensorGroup(rank=0, size=tensor_parallel_size(recipe))
    cuts = cut_layers(model, group) if group.size > 1 else {}
    return Empty(
        model=trained,
        plain=model,
        group=group,
        cut=frozenset(name for name, one in cuts.items() if one.dimension is not None),
        quantizer=quantizer,
        num_vocabulary=int(model.config.get_text_config().vocab_size),
    )


def _language_model(plan: Plan, folder: Path, attention: str) -> PreTrainedModel:
    recipe, head = plan.recipe, head_of(plan.recipe)
    try:
        config: Any = AutoConfig.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            **head_arguments(head),
            **rope_arguments(folder, recipe.model.rope_scaling),
        )
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"), quiet(), _Undrawn():
            model = auto_class(head).from_config(
                config,
                dtype=DTYPES[plan.weights_dtype],
                attn_implementation=attention,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            Problem(
                key="model.source",
                what=f"the configuration in {str(folder)!r} makes no model: {error}",
                hint="it must be a causal language model that transformers has built in",
            )
        ) from error
    if head is not None:
        prepare_head(model, None)
    return model


class _Undrawn(TorchFunctionMode):
    """Leaves out drawing numbers into tensors that hold none, which takes most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _DRAWING and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


_DRAWING = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_})


class PackedLinear(Module):
    """A linear layer whose frozen weight is made whole for each product, and again for its
    gradient."""

    def __init__(self, whole: Linear, bits: float, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = whole.in_features, whole.out_features
        num_bytes = round(whole.weight.numel() * bits / 8)
        self.weight = Parameter(
            torch.empty(num_bytes, dtype=torch.uint8, device="meta"), requires_grad=False
        )
        self.bias = whole.bias
        self.compute_dtype = compute_dtype

    def forward(self, x: Tensor) -> Tensor:
        """[..., out]"""
        shape = (self.out_features, self.in_features)
        result = _PackedProduct.apply(x.to(self.compute_dtype), self.weight, shape)
        if self.bias is not None:
            result = result + self.bias.to(result.dtype)
        return result.to(x.dtype)


class _PackedProduct(torch.autograd.Function):
    """x W^T, of which only the packed W is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(packed)
        return nn.functional.linear(x, x.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0]
        return gradient @ gradient.new_empty(ctx.shape), None, None


def _pack(
    trained: Module,
    model: PreTrainedModel,
    quantizer: Packing,
    bits: float,
    compute_dtype: torch.dtype,
) -> None:
    """Puts packed layers in the place of the linear layers that the quantizer takes."""
    kept = {model.get_output_embeddings(), model.get_input_embeddings()}
    for path, module in list(trained.named_modules()):
        named = any(part in (*HEAD_NAMES, *quantizer.skip_modules) for part in path.split("."))
        if type(module) is not Linear or module.weight.requires_grad:
            continue
        if module not in kept and not named and ".lora_" not in path:
            assert isinstance(module, Linear)
            packed = PackedLinear(module, bits, compute_dtype)
            trained.set_submodule(path, packed)
