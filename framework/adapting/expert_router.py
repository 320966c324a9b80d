"""LoRA adapters of one model -> a mixture of them whose weights a router gives for every token.

Shapes: N tokens in any number of dimensions, D numbers that go into a layer, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora.layer import LoraVariant
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import Module

from framework.adapting.adapted import NOT_FITTING, adapted
from framework.adapting.adapter_folder import CONFIG, read_config, trained_settings
from framework.adapting.targets import module_paths, name_exactly
from framework.adapting.trained_adapter import put_into, without_routers
from framework.core.problems import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KIND = "LORA_EXPERTS"
"""What stands as `peft_type` in the folder, so that plain peft refuses it."""
ROUTERS = "router.safetensors"
START_SPREAD = 0.02
"""Standard deviation of a router's weights where only some experts are taken: of equals, the same
ones would be taken every time."""


def expert_name(number: int) -> str:
    """The name of an expert in peft and of its folder; none is the beginning of another."""
    return f"expert_{number:03d}"


def no_merge() -> UserError:
    """Refusal of a mixture that is asked to become weights."""
    return UserError(
        "the adapter can't be merged: how much each expert counts differs from token to token",
        hint="use it with `framework chat RUN`; each `RUN/final/expert_...` is a LoRA adapter that "
        "peft loads and merges alone",
    )


class ExpertRouter(Module):
    """How much each expert counts: softmax of a linear map of what goes into the layer.

    Args:
        num_inputs: D.
        num_experts: E.
        top_k: only so many of the most likely experts count; None: all do.
    """

    def __init__(self, num_inputs: int, num_experts: int, top_k: int | None, device: Any) -> None:
        super().__init__()
        self.top_k = top_k
        # float32 whatever the model has: of a few large logits the differences matter.
        self.weight = nn.Parameter(torch.zeros(num_experts, num_inputs, device=device))
        if top_k is not None:
            nn.init.normal_(self.weight, std=START_SPREAD)

    def forward(self, inputs: Tensor) -> Tensor:
        """float32 [N, E], from [N, D]; sums to 1 over the experts."""
        with torch.autocast(inputs.device.type, enabled=False):
            logits = nn.functional.linear(inputs.float(), self.weight.float())
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            chosen = logits.topk(self.top_k, dim=-1).indices
            others = torch.ones_like(logits, dtype=torch.bool).scatter(-1, chosen, False)
            logits = logits.masked_fill(others, float("-inf"))
        return logits.softmax(-1)


class MixtureVariant(LoraVariant):
    """One layer's experts: x -> W x + sum over e of router(x)_e s_e B_e A_e x.

    It keeps nothing from call to call, so a layer that is computed again is the same.

    Args:
        names: all experts, in the router's order; some may have no update in this layer.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def supports_lora_conversion(self) -> bool:
        """It is no fixed change of the weights."""
        return False

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """
        Raises:
            UserError: always.
        """
        raise no_merge()

    @staticmethod
    def merge_unsafe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """
        Raises:
            UserError: always; peft's own would leave the weights as they are in silence.
        """
        raise no_merge()

    # peft calls it on the instance, though its own variants are static.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """The layer's whole output with the first expert that it has, and nothing more with the
        others, as peft asks about each."""
        own = [(at, name) for at, name in enumerate(self.names) if name in module.lora_A]
        if active_adapter != own[0][1]:
            return result
        shares = module.router(x)
        update: Any = 0
        for at, name in own:
            inputs = module.lora_dropout[name](x)
            output = module.lora_B[name](module.lora_A[name](inputs)) * module.scaling[name]
            update = update + shares[..., at : at + 1] * output
        return (result + update).to(result.dtype)


def with_experts(
    model: PreTrainedModel, experts: Mapping[str, LoraConfig], adapter: object, top_k: int | None
) -> PeftModel:
    """The model with the experts and a router in every layer that any of them adapts.

    Args:
        experts: their names, as `expert_name` gives them -> their settings.
        adapter: the recipe's, for what is said of it.

    Raises:
        UserError: an expert doesn't fit the model, or adapts what is no linear layer.
    """
    (first, config), *others = experts.items()
    for other in experts.values():
        name_exactly(other, module_paths(model))
    mixture: Any = adapted(model, config, adapter, name=first)
    for name, other in others:
        try:
            mixture.add_adapter(name, other, autocast_adapter_dtype=True)
        except NOT_FITTING as error:
            raise UserError(
                Problem(key="adapter.experts", what=f"{name} can't be applied: {error}")
            ) from error
    for path, layer in mixture.base_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not layer.lora_A:
            raise UserError(
                Problem(
                    key="adapter.experts",
                    what=f"{path!r} is no linear layer, and only those are routed",
                    hint="leave embeddings out of target_modules",
                )
            )
        _route(layer, tuple(experts), top_k)
    mixture.base_model.set_adapter(list(experts))
    return mixture


def freeze_experts(mixture: Module, names: Sequence[str]) -> None:
    """Keeps these experts as they are, also when peft switches adapters off and on again."""
    for layer in routed_layers(mixture).values():
        layer.frozen_peft_weight_names = dict.fromkeys(names, ("lora_A", "lora_B"))
        layer._freeze_non_trainable_peft_weights(list(names))


def routed_layers(mixture: Module) -> dict[str, Any]:
    """Path in the model without adapters -> layer with a router."""
    assert isinstance(mixture, PeftModel), type(mixture).__name__
    plain = mixture.base_model.get_submodule("model")
    return {path: one for path, one in plain.named_modules() if isinstance(one, LoraLayer)}


def save_experts(mixture: Module, folder: Path) -> None:
    """Each expert as an adapter that plain peft loads, and the routers beside them."""
    assert isinstance(mixture, PeftModel), type(mixture).__name__
    names = list(mixture.peft_config)
    # peft would take the routers for a part of each of them.
    weights = without_routers(mixture)
    mixture.save_pretrained(str(folder), selected_adapters=names, state_dict=weights)
    layers = routed_layers(mixture)
    routers = {path: one.router.weight.detach().cpu().contiguous() for path, one in layers.items()}
    save_file(routers, folder / ROUTERS, metadata={"format": "pt"})
    top_k = next(iter(layers.values())).router.top_k
    base = mixture.get_base_model().name_or_path
    written = {
        "peft_type": KIND,
        "experts": names,
        "top_k": top_k,
        "base_model_name_or_path": base,
    }
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def load_experts(model: PreTrainedModel, folder: Path, adapter: object) -> PeftModel:
    """What `save_experts` wrote, on the model that it was trained over."""
    written = read_config(folder)
    names = [expert_name(number) for number in range(len(written["experts"]))]
    if written["experts"] != names:
        raise ValueError(f"its experts are not called {expert_name(0)} and so on")
    configs = {name: lora_config(model, folder / name) for name in names}
    mixture = with_experts(model, configs, adapter, written["top_k"])
    for name in configs:
        put_into(mixture, name, folder / name, "adapter")
    layers, weights = routed_layers(mixture), load_file(folder / ROUTERS)
    assert layers.keys() == weights.keys(), sorted(layers.keys() ^ weights.keys())[:5]
    with torch.no_grad():
        for path, layer in layers.items():
            layer.router.weight.copy_(weights[path])
    return mixture.eval()


def lora_config(model: PreTrainedModel, folder: Path, dropout: float = 0.0) -> LoraConfig:
    """The settings of the adapter in `folder`, for new matrices that get its weights.

    Raises:
        UserError: they ask for what no adapter of the model has.
    """
    config: Any = trained_settings(folder, model)
    config.init_lora_weights = True
    config.eva_config = None
    config.lora_dropout = dropout
    config.inference_mode = False
    return config


def _route(layer: Any, names: tuple[str, ...], top_k: int | None) -> None:
    device = layer.get_base_layer().weight.device
    layer.router = ExpertRouter(layer.in_features, len(names), top_k, device)
    variant = MixtureVariant(names)
    layer.lora_variant = dict.fromkeys(layer.lora_A, variant)
