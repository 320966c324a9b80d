"""Trained weights and optimizer state <-> safetensors and JSON; never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

WEIGHTS = "trained_weights.safetensors"
OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_NUMBERS = "optimizer.json"


def save_trained_weights(model: Module, folder: Path) -> None:
    """Every parameter that has a gradient, under its own name and dtype."""
    weights = {
        name: parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    save_file(weights, folder / WEIGHTS)


def load_trained_weights(model: Module, folder: Path) -> None:
    """Puts the weights back; their names, shapes and dtypes must be the model's."""
    saved = load_file(folder / WEIGHTS)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert saved.keys() == trained.keys(), sorted(saved.keys() ^ trained.keys())[:5]
    with torch.no_grad():
        for name, parameter in trained.items():
            assert saved[name].dtype == parameter.dtype, name
            parameter.copy_(saved[name])


def save_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Tensors go to safetensors under `PARAMETER/NAME`, everything else to JSON.

    bitsandbytes nests its quantized states one level deeper: `PARAMETER/GROUP/NAME`.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for path, value in _leaves(state["state"], ()):
        if isinstance(value, Tensor):
            # A clone: safetensors refuses tensors that share memory, such as shared maps.
            tensors["/".join(path)] = value.detach().clone().contiguous()
        else:
            numbers["/".join(path)] = value
    save_file(tensors, folder / OPTIMIZER_TENSORS)
    text = json.dumps({"numbers": numbers, "param_groups": state["param_groups"]})
    (folder / OPTIMIZER_NUMBERS).write_text(text, encoding="utf-8")


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Puts the state back."""
    written = json.loads((folder / OPTIMIZER_NUMBERS).read_text(encoding="utf-8"))
    leaves: dict[str, Any] = {**load_file(folder / OPTIMIZER_TENSORS), **written["numbers"]}
    state: dict[int, dict[str, Any]] = {}
    for path, value in leaves.items():
        parameter, *groups, name = path.split("/")
        inner = state.setdefault(int(parameter), {})
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    groups = [dict(group) for group in written["param_groups"]]
    for group, current in zip(groups, optimizer.state_dict()["param_groups"], strict=True):
        # JSON has no tuples; the optimizer's own types are kept.
        for name, value in current.items():
            if isinstance(value, tuple) and isinstance(group.get(name), list):
                group[name] = tuple(group[name])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    else:
        yield path, value
