"""Launcher environment -> World: the one place that reads it."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from framework.core.problems import UserError

Device = Literal["cpu", "cuda", "mps"]

_SPREADING = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)
"""What `accelerate launch` sets where it, or its configuration file, says how to spread a model."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of this run and what they run on."""

    rank: int = 0
    """This process's number over all nodes, from 0."""
    local_rank: int = 0
    """This process's number on its node, from 0."""
    num_processes: int = 1
    """Processes over all nodes."""
    num_local_processes: int | None = None
    """Processes of this node; None: all of them."""
    node_rank: int = 0
    """This node's number, from 0, as far as the launcher tells."""
    device: Device = "cpu"
    """What each process computes on."""
    fast_bfloat16: bool = False
    """Whether the device multiplies bfloat16 matrices in hardware."""
    spread_by: str = ""
    """Variable by which the launcher wants to spread the model itself; empty: it doesn't."""
    end_time: int | None = None
    """When a scheduler ends the processes, in seconds since 1970; None: nobody said."""

    @property
    def num_nodes(self) -> int:
        """As many as have so many processes as this one."""
        return -(-self.num_processes // (self.num_local_processes or self.num_processes))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def torch_device(self) -> str:
        """This process's device as PyTorch names it."""
        return f"cuda:{self.local_rank}" if self.device == "cuda" else self.device

    @staticmethod
    def from_env() -> World:
        """The world that `accelerate launch` or `torchrun` describes; one process without them.

        Raises:
            UserError: the launcher's variables contradict each other.
        """
        rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
        if not 0 <= rank < size:
            raise UserError(
                f"the launcher says RANK={rank} of WORLD_SIZE={size}",
                hint="unset both, or start through `accelerate launch`",
            )
        device = _device()
        return World(
            rank=rank,
            local_rank=_number("LOCAL_RANK", 0),
            num_processes=size,
            num_local_processes=_number("LOCAL_WORLD_SIZE", size),
            node_rank=_number("GROUP_RANK", 0),
            device=device,
            fast_bfloat16=_fast_bfloat16(device),
            spread_by=next(filter(_is_on, _SPREADING), ""),
            end_time=_number("SLURM_JOB_END_TIME", 0) or None,
        )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise UserError(f"environment variable {name} is {text!r}, not a whole number")
    return int(text)


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes"}


def _device() -> Device:
    if _is_on("ACCELERATE_USE_CPU") or os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return "cpu"
    if Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists():
        return "cuda"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def _fast_bfloat16(device: Device) -> bool:
    if device == "cpu":
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())
    if device == "mps":
        return True
    capability = _compute_capability()
    return capability is None or capability >= (8, 0)


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


@functools.cache
def _compute_capability() -> tuple[int, int] | None:
    """NVIDIA compute capability of the first device; None on other makers' devices."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    major, _, minor = result.stdout.strip().partition("\n")[0].partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
