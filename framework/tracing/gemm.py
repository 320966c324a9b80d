"""dtype and device -> how fast it multiplies matrices, measured."""

from __future__ import annotations

import time

import torch

SIZES = (1024, 2048)
SECONDS = 0.1
"""How long each size is tried, at least once."""


def gemm_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of the best product of two square matrices, with as
    many threads as PyTorch has in this process."""
    return max(_operations_per_second(size, dtype, device) for size in SIZES)


def _operations_per_second(size: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
    result = torch.empty_like(left)
    torch.mm(left, right, out=result)
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        started = _now(device)
        torch.mm(left, right, out=result)
        seconds = _now(device) - started
        best, spent = min(best, seconds), spent + seconds
    return 2.0 * size**3 / best


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()  # What others take of the CPU meanwhile doesn't count.
    return time.perf_counter()
