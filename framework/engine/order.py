"""(seed, epoch, data) -> which units each optimizer step sees, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from framework.reading.seeded import seeded


@dataclass(frozen=True, kw_only=True)
class Order:
    """The sequence of global batches of a run."""

    stage_ends: tuple[int, ...]
    """Number of units up to and including each stage; units are shuffled within their stage."""
    global_batch_size: int
    seed: int
    data_fingerprint: str

    @property
    def num_units(self) -> int:
        """Units of one pass."""
        return self.stage_ends[-1]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; the last one takes what is left."""
        return -(-self.num_units // self.global_batch_size)

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Units of optimizer step `step`, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.global_batch_size
        return _permutation(self.stage_ends, self.seed, epoch, self.data_fingerprint)[
            start : start + self.global_batch_size
        ]


def step_seed(seed: int, step: int, rank: int) -> int:
    """What a process draws dropout from in a step."""
    return (seed * 1_000_003 + step) * 65_537 + rank & (1 << 63) - 1


@lru_cache(maxsize=2)
def _permutation(
    stage_ends: tuple[int, ...], seed: int, epoch: int, fingerprint: str
) -> NDArray[np.int64]:
    random = seeded(f"{seed}/{epoch}/{fingerprint}")
    starts = (0, *stage_ends[:-1])
    return np.concatenate(
        [
            random.permutation(stop - start) + start
            for start, stop in zip(starts, stage_ends, strict=True)
        ]
    )
