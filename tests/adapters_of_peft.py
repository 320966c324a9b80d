"""Every adapter with settings that fit the models of `architectures`."""

from __future__ import annotations

from typing import Any

from framework.core.registries import registry

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "lora_experts": {"num_new_experts": 3, "top_k": 2, "r": 4},
    "adalora": {"init_r": 6, "target_r": 3},
    "vera": {"r": 16},
    "oft": {"oft_block_size": 16},
    "c3a": {"block_size": 16},
    "miss": {"r": 16},
    "shira": {"r": 4},
    "road": {"group_size": 16},
    "randlora": {"r": 8, "randlora_alpha": 160},
    "fourierft": {"n_frequency": 64},
    "trainable_tokens": {"token_indices": (5, 6, 7)},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "p_tuning": {"num_virtual_tokens": 4},
}
BEFORE_THE_TEXT = ("p_tuning", "prefix_tuning", "prompt_tuning")
"""Those that put something before every document: no part of the weights."""
MIXED_BY_TOKEN = ("lora_experts",)
"""Those that change the model by another amount for every token: no part of the weights, and
nothing that plain peft loads as a whole."""
WITHOUT_PEFT = {"full", "freeze", "half", "lisa"}
"""Those that choose among the model's own weights."""
NAMES = tuple(sorted(set(registry("adapters").names()) - WITHOUT_PEFT))


def adapter_named(name: str, **settings: Any) -> Any:
    """The adapter, small."""
    return registry("adapters").get(name)(**{**SETTINGS.get(name, {}), **settings})


def trained(model: Any) -> dict[str, Any]:
    """Its trained parameters."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
