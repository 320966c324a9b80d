"""This machine -> its GPUs, cores and network interfaces, without torch."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from framework.core.world import Device

_DEVICE_FILES = Path("/dev")
_NVIDIA = re.compile(r"nvidia\d+")
_AMD = re.compile(r"renderD\d+")
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def num_devices(
    device: Device, environment: Mapping[str, str], device_files: Path = _DEVICE_FILES
) -> int | None:
    """Devices that processes of this machine can have one each of; None: as many as you like."""
    if device == "cpu":
        return None
    if device == "mps":
        return 1
    pattern, folder = _NVIDIA, device_files
    if not (device_files / "nvidiactl").exists():
        pattern, folder = _AMD, device_files / "dri"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    number = sum(pattern.fullmatch(name) is not None for name in names)
    for variable in _VISIBLE:
        if variable in environment:
            number = min(number, _num_listed(environment[variable]))
    return number


def num_cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def interfaces() -> list[str]:
    """Names of this machine's network interfaces."""
    return [name for _, name in socket.if_nameindex()]


def _num_listed(text: str) -> int:
    """Devices of such a variable: those before the first that is none."""
    listed = [part.strip() for part in text.split(",")]
    return next((i for i, part in enumerate(listed) if part in {"", "-1"}), len(listed))
