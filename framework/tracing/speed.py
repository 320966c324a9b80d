"""Devices whose speed no table says -> the same with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from framework.engine.lock import cpu_model
from framework.models.load import DTYPES
from framework.planning.devices import (
    THIS_MACHINE,
    Cluster,
    cluster_of,
    device_called,
)
from framework.planning.plan import Plan
from framework.tracing.gemm import gemm_peak

OF_MEASURED_PEAK = (0.3, 0.9)
"""Share of it that training reaches, from poor to good; of a data sheet's peak it is less."""


def measured_here(cluster: Cluster, plan: Plan, num_threads: int | None = None) -> Cluster:
    """With the speed of this machine's CPU, where the cluster is that; it takes a second.

    Args:
        num_threads: of each process; None: as many as PyTorch has in this one.
    """
    if cluster.device_name != THIS_MACHINE:
        return cluster
    dtype = plan.autocast_dtype or plan.weights_dtype
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        peak = gemm_peak(DTYPES[dtype], torch.device("cpu")) / 1e12
    finally:
        torch.set_num_threads(before)
    device = replace(cluster.device, peak_tflops={dtype: peak}, efficiency=OF_MEASURED_PEAK)
    return replace(cluster, device=device)


def cluster_of_run(plan: Plan, hardware: Mapping[str, Any]) -> Cluster:
    """The devices that a run had; of unknown speed where it ran on another machine's CPU, or on
    devices that no table has.

    Args:
        hardware: of the run's lock.json.
    """
    num_nodes = hardware.get("num_nodes") or 1
    num_per_node = plan.world.num_processes // num_nodes
    names = [device_called(one) for one in hardware.get("gpus") or ()]
    if names and names[0] is not None:
        return cluster_of(f"{num_per_node}x{names[0]}", num_nodes, None)
    cluster = replace(cluster_of(None, num_nodes, None), num_per_node=num_per_node)
    if plan.world.device != "cpu" or hardware.get("cpu") != cpu_model():
        return cluster
    return measured_here(cluster, plan, hardware.get("torch_num_threads"))
