"""dtype and number of threads -> how fast this machine's CPU computes, measured once and kept."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from framework.core import atomic
from framework.core.cache import cache_directory
from framework.models.load import DTYPES
from framework.runs.lock import cpu_model
from framework.tracing.gemm import gemm_peak

_UNDISTURBED = 0.9
"""Share of its threads' time that a process has on a machine that does nothing else."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class CPUSpeed:
    """What was measured."""

    operations_per_second: float
    """Of large matrix products."""
    known_product_seconds: float
    """That a small product takes whose shape was computed before."""
    new_product_seconds: float
    """And one of a new shape, for which oneDNN first makes a kernel in 16 bits."""
    call_seconds: float
    """That any other small operation takes, its share of the backward pass included."""


def cpu_speed(dtype: str, num_threads: int, *, may_measure: bool = True) -> CPUSpeed | None:
    """This machine's, in processes of so many threads; None where it was never measured.

    What was measured while other programs ran is used once and not kept.

    Args:
        may_measure: take a second for it, which must not be beside a run.
    """
    path = _path(dtype, num_threads)
    with suppress(OSError, ValueError, TypeError):  # Not there, or not what was written.
        return CPUSpeed(**json.loads(path.read_text(encoding="utf-8")))
    if not may_measure:
        return None
    with _threads(num_threads):
        found, undisturbed = _timed(lambda: _measure(dtype), num_threads)
    if undisturbed:
        with suppress(OSError):  # It is measured again the next time.
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_file(path, json.dumps(asdict(found)))
    return found


def _path(dtype: str, num_threads: int) -> Path:
    parts = (cpu_model(), torch.__version__, torch.backends.cpu.get_cpu_capability())
    key = hashlib.sha256(json.dumps([*parts, dtype, num_threads]).encode()).hexdigest()[:32]
    return cache_directory() / "cpu-speed" / f"{key}.json"


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(measure: Callable[[], CPUSpeed], num_threads: int) -> tuple[CPUSpeed, bool]:
    """What was measured, and whether nobody else was on the CPU as far as that matters."""
    started, cpu = time.perf_counter(), time.process_time()
    found = measure()
    wanted = num_threads * (time.perf_counter() - started)
    return found, num_threads == 1 or time.process_time() - cpu > _UNDISTURBED * wanted


def _measure(dtype: str) -> CPUSpeed:
    known, new = _products(DTYPES[dtype])
    return CPUSpeed(
        operations_per_second=gemm_peak(DTYPES[dtype], _CPU),
        known_product_seconds=known,
        new_product_seconds=new,
        call_seconds=_call(),
    )


def _products(dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a small product whose shape is known, and of one whose shape is new."""
    new, known = [], []
    weight = torch.ones(16, 16, dtype=dtype)
    for length in range(100, 140):
        rows = torch.ones(length, 16, dtype=dtype)
        for found in (new, known):
            started = time.process_time()
            torch.nn.functional.linear(rows, weight)
            found.append(time.process_time() - started)
    return statistics.median(known), statistics.median(new)


def _call() -> float:
    weight = torch.ones(16, requires_grad=True)
    number, spent = 50, []
    for _ in range(20):
        started = time.process_time()
        result = weight
        for _ in range(number):
            result = result * weight
        result.sum().backward()
        # Each product has two in the backward pass, and a sum of gradients.
        spent.append((time.process_time() - started) / (4 * number))
    return statistics.median(spent)
