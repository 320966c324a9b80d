"""JOB -> the machine's own speed: matrix products in bfloat16, one series a turn.

In place of tokens it counts billions of operations.
"""

from __future__ import annotations

import time

import torch
from protocol import NUM_STEPS, Turns, read_job

SIZE = 2048
SECONDS = 1.0


def main() -> None:
    """Square products, as large as a cache holds."""
    read_job()
    torch.set_num_threads(1)
    left, right = (torch.randn(SIZE, SIZE).bfloat16() for _ in range(2))
    turns = Turns(("torch",))
    turns.begin(dtypes="bfloat16")
    for _ in range(NUM_STEPS):
        best = 0.0
        started = time.process_time()
        while time.process_time() - started < SECONDS:
            begun = time.process_time()
            torch.mm(left, right)
            best = max(best, 2 * SIZE**3 / (time.process_time() - begun))
        turns.end_step(num_tokens=0, loss=0.0, flops_per_cpu_second=best)


if __name__ == "__main__":
    main()
