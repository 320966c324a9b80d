"""Sizes of a model and its shares -> the bytes that each device sends and receives in a step."""

from __future__ import annotations

from dataclasses import dataclass

from framework.core.protocols.sharding import Shares
from framework.planning.memory import DTYPE_BYTES, Traced


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One kind of collective over an optimizer step."""

    collective: str
    """`all_gather`, `reduce_scatter`, `all_reduce` or `all_to_all`, as NCCL names them."""
    what: str
    """What is sent."""
    size_bytes: int
    """Of the whole tensors over the step: what the collective is called with."""
    sent_bytes: int
    """What each device sends, and receives as much, in a ring."""


def tensor_traffic(
    summed_bytes: float, gathered_bytes: float, num_devices: int
) -> tuple[Transfer, ...]:
    """What devices that compute layers together exchange of activations and their gradients.

    Args:
        summed_bytes: of what is added up in a step.
        gathered_bytes: of what is put together.
        num_devices: that compute each layer.
    """
    ring = (num_devices - 1) / num_devices
    kinds = (("all_reduce", summed_bytes, 2 * ring), ("all_gather", gathered_bytes, ring))
    return tuple(
        Transfer(
            collective=collective,
            what="activations and their gradients, inside of layers",
            size_bytes=round(size),
            sent_bytes=round(size * share),
        )
        for collective, size, share in kinds
        if size
    )


def sequence_traffic(exchanged_bytes: float, num_devices: int) -> tuple[Transfer, ...]:
    """What devices that compute slices of a row exchange around attention.

    Args:
        exchanged_bytes: of what a device gives into exchanges in a step.
        num_devices: that compute a row, each of which keeps its own part.
    """
    if not exchanged_bytes:
        return ()
    return (
        Transfer(
            collective="all_to_all",
            what="activations and their gradients, around attention",
            size_bytes=round(exchanged_bytes),
            sent_bytes=round(exchanged_bytes * (num_devices - 1) / num_devices),
        ),
    )


def traffic(
    traced: Traced, shares: Shares, num_devices: int, num_passes: float
) -> tuple[Transfer, ...]:
    """What an optimizer step of so many passes, on average, sends.

    In a ring over n devices each sends (n - 1) / n of a tensor to gather or to reduce-scatter it,
    and twice that to all-reduce it.
    """
    if num_devices == 1:
        return ()
    found: list[Transfer] = []
    ring = (num_devices - 1) / num_devices
    if shares.weight_gathers_per_pass:
        size = traced.weights_bytes
        if shares.gathered_dtype is not None and size >= traced.num_parameters:
            size = traced.num_parameters * DTYPE_BYTES[shares.gathered_dtype]
        times = shares.weight_gathers_per_pass * num_passes
        found.append(
            Transfer(
                collective="all_gather",
                what=f"weights, {shares.weight_gathers_per_pass} times a pass",
                size_bytes=round(size * times),
                sent_bytes=round(size * times * ring),
            )
        )
    if shares.weight_gathers_per_step:
        size = traced.trained_bytes * shares.weight_gathers_per_step
        found.append(
            Transfer(
                collective="all_gather",
                what="trained weights, after the step",
                size_bytes=round(size),
                sent_bytes=round(size * ring),
            )
        )
    gradients = traced.trained_bytes
    if shares.reduction_dtype is not None:
        gradients = traced.num_trained * DTYPE_BYTES[shares.reduction_dtype]
    gradients *= num_passes if shares.reduces_each_pass else 1
    found.append(
        Transfer(
            collective=shares.reduction,
            what="gradients",
            size_bytes=round(gradients),
            sent_bytes=round(gradients * ring * (2 if shares.reduction == "all_reduce" else 1)),
        )
    )
    return tuple(found)
