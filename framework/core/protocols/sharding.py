"""What components say of memory and traffic, so that runs can be planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What one device, and its part of the host, holds of the model between its uses, and what is
    sent.

    Parts are of the whole model: 1 for all of it, 1 / n where n devices share it. The plan counts
    trained and frozen weights, gradients and optimizer state in the dtypes that they have.
    """

    weights: float = 1.0
    """Part of the weights on a device, outside of the layer that is computed."""
    gradients: float = 1.0
    """Part of the gradients on a device, outside of the layer whose backward pass runs."""
    optimizer: float = 1.0
    """Part of the optimizer state on a device."""
    host_weights: float = 0.0
    """Part of the weights in the host's memory, for each device."""
    host_gradients: float = 0.0
    """Part of the gradients in the host's memory, for each device."""
    host_optimizer: float = 0.0
    """Part of the optimizer state in the host's memory, for each device."""
    keeps_gradients: bool = False
    """Gradients have memory of their own from the start to the end, such as DDP's buckets, rather
    than between the backward pass and the optimizer's step."""
    gathered_dtype: str | None = None
    """dtype in which the weights of the layer that is computed stand whole on the device; None:
    nothing is gathered, for the device has all weights."""
    gathered_layers: int = 1
    """Layers that are whole on a device at once, with those that are fetched ahead."""
    gathers_embeddings: bool = False
    """Embeddings and output layer stay gathered from the forward pass to the backward one."""
    weight_gathers_per_pass: int = 0
    """How often each pass collects all weights: 2 for forward and backward."""
    weight_gathers_per_step: int = 0
    """How often an optimizer step collects all trained weights, in their own dtype."""
    reduction: Literal["all_reduce", "reduce_scatter"] = "all_reduce"
    """How gradients are added up."""
    reduction_dtype: str | None = None
    """dtype in which they are; None: their own."""
    reduces_each_pass: bool = False
    """Gradients are added up after every pass, not only after the last one of a step."""
    extra_optimizer_bytes_per_parameter: float = 0.0
    """What the strategy itself holds for each trained number beside the optimizer's state, such as
    a float32 copy of 16-bit weights; shared out as the optimizer state is."""


@runtime_checkable
class Sharding(Protocol):
    """A strategy whose memory and traffic can be planned."""

    def shares(self, num_processes: int, *, weights_dtype: str, products_dtype: str) -> Shares:
        """What each of so many processes, with a device each, holds and sends.

        One process shares nothing.

        Args:
            weights_dtype: what the model is loaded in.
            products_dtype: what matrix products are computed in.
        """
        ...


@runtime_checkable
class StateSized(Protocol):
    """An optimizer that only runs on real numbers, so that its state's size has to be said."""

    def state_bytes(self, num_numbers: int) -> int:
        """Bytes of its state for a parameter of so many numbers."""
        ...


@runtime_checkable
class StepSized(Protocol):
    """Such an optimizer whose step on a CPU takes memory of its own."""

    def step_bytes(self, num_numbers: int) -> int:
        """Bytes that the step of a parameter of so many float32 numbers takes while it runs."""
        ...
