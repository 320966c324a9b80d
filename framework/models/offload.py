"""Model -> one whose saved activations wait for the backward pass in the machine's memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

LEAST_BYTES = 1 << 12
"""Smaller tensors stay: moving them takes longer than they are worth."""


@dataclass(frozen=True, kw_only=True)
class _Moved:
    copy: Tensor
    device: torch.device


class OffloadedActivations(torch.autograd.graph.saved_tensors_hooks):
    """While it is entered, what autograd saves is copied to the CPU, and back when it is needed.

    Weights stay where they are, whether whole or as views.

    Args:
        weights: the model's parameters and buffers.
        device_type: only tensors on this kind of device are moved.
    """

    def __init__(self, weights: Iterable[Tensor], device_type: str) -> None:
        own = {weight.untyped_storage().data_ptr() for weight in weights}

        def pack(tensor: Tensor) -> Tensor | _Moved:
            if (
                tensor.device.type != device_type
                or tensor.numel() * tensor.element_size() < LEAST_BYTES
                or tensor.untyped_storage().data_ptr() in own
            ):
                return tensor
            pinned = tensor.device.type == "cuda"
            copy = torch.empty(
                tensor.size(), dtype=tensor.dtype, layout=tensor.layout, pin_memory=pinned
            )
            copy.copy_(tensor, non_blocking=pinned)
            return _Moved(copy=copy, device=tensor.device)

        def unpack(saved: Tensor | _Moved) -> Tensor:
            if isinstance(saved, _Moved):
                return saved.copy.to(saved.device, non_blocking=True)
            return saved

        super().__init__(pack, unpack)


def offload_activations(model: Module, device: str) -> str:
    """Offloads in every forward pass of the model that has gradients; returns what is done.

    Around checkpointed layers, so that what they keep is offloaded and the rest computed again.
    """
    if device == "cpu":
        return "activation offload: off, activations are in the machine's memory already"
    model.forward = _offloading(model, model.forward, torch.device(device).type)
    return "activation offload: on, what the backward pass needs waits in the machine's memory"


def _offloading(model: Module, forward: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    @functools.wraps(forward)
    def offloading(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        weights = (*model.parameters(), *model.buffers())
        with OffloadedActivations(weights, device_type):
            return forward(*args, **kwargs)

    return offloading
