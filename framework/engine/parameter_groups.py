"""Trained parameters -> optimizer groups with and without weight decay."""

from __future__ import annotations

from typing import Any

from torch.nn import Embedding, Module, Parameter


def parameter_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases and embeddings don't. Empty groups are left out."""
    decayed: list[Parameter] = []
    kept: list[Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_matrix = parameter.ndim >= 2 and not isinstance(module, Embedding)
            (decayed if is_matrix else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
