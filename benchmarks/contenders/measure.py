"""What a contender did -> CPU seconds, wall seconds and peak memory, as one line of JSON."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Result:
    """Filled by the contender and by `measured`."""

    num_rows: int = 0
    num_tokens: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_rss_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@contextmanager
def measured() -> Iterator[Result]:
    """Measures the CPU time of this process and its children, and prints the result."""
    result = Result()
    cpu, wall = _cpu_seconds(), time.monotonic()
    yield result
    result.cpu_seconds = _cpu_seconds() - cpu
    result.wall_seconds = time.monotonic() - wall
    result.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("RESULT " + json.dumps(asdict(result)), flush=True)


def _cpu_seconds() -> float:
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in times)
