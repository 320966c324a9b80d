"""Devices whose speed no table says -> the same with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from framework.planning.devices import (
    THIS_MACHINE,
    CallSeconds,
    Cluster,
    cluster_of,
    device_called,
)
from framework.planning.plan import Plan
from framework.runs.lock import cpu_model
from framework.tracing.cpu_speed import cpu_speed

OF_MEASURED_PEAK = (0.3, 0.9)
"""Share of it that training reaches, from poor to good; of a data sheet's peak it is less."""
OF_MEASURED_CALLS = 5.0
"""How many times as long an operation takes where Python modules and hooks call it."""


def measured_here(
    cluster: Cluster, plan: Plan, num_threads: int | None = None, *, may_measure: bool = True
) -> Cluster:
    """With the speed of this machine's CPU, where the cluster is that; see `cpu_speed`.

    Args:
        num_threads: of each process; None: as many as PyTorch has in this one.
    """
    if cluster.device_name != THIS_MACHINE:
        return cluster
    dtype = plan.autocast_dtype or plan.weights_dtype
    speed = cpu_speed(dtype, num_threads or torch.get_num_threads(), may_measure=may_measure)
    if speed is None:
        return cluster
    peak = {dtype: speed.operations_per_second / 1e12}
    device = replace(cluster.device, peak_tflops=peak, efficiency=OF_MEASURED_PEAK)
    call = speed.call_seconds
    calls = CallSeconds(
        product=(speed.known_product_seconds, speed.new_product_seconds + OF_MEASURED_CALLS * call),
        other=(call, OF_MEASURED_CALLS * call),
    )
    return replace(cluster, device=device, call_seconds=calls)


def cluster_of_run(plan: Plan, hardware: Mapping[str, Any], *, may_measure: bool) -> Cluster:
    """The devices that a run had; of unknown speed where it ran on another machine's CPU, or on
    devices that no table has.

    Args:
        hardware: of the run's lock.json.
        may_measure: nothing computes on this machine's CPU.
    """
    num_nodes = hardware.get("num_nodes") or 1
    num_per_node = plan.world.num_processes // num_nodes
    names = [device_called(one) for one in hardware.get("gpus") or ()]
    if names and names[0] is not None:
        return cluster_of(f"{num_per_node}x{names[0]}", num_nodes, None)
    cluster = replace(cluster_of(None, num_nodes, None), num_per_node=num_per_node)
    if plan.world.device != "cpu" or hardware.get("cpu") != cpu_model():
        return cluster
    return measured_here(cluster, plan, hardware.get("torch_num_threads"), may_measure=may_measure)
