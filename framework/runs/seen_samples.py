"""Ids and losses of a step's samples -> their row of `samples.jsonl`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def seen_samples(step: int, ids: Sequence[str], losses: Sequence[float] | None) -> dict[str, Any]:
    """What step `step`, from 1, saw; losses are left out where samples have none of their own."""
    row: dict[str, Any] = {"step": step, "ids": ids}
    written = written_losses(losses)
    return row if written is None else {**row, "losses": written}


def written_losses(losses: Sequence[float] | None) -> list[float | None] | None:
    """The same as JSON has them."""
    return None if losses is None else [_as_float32(loss) for loss in losses]


def _as_float32(value: float) -> float | None:
    """A float32 in as few digits as tell it from all others; None where it is no number."""
    return float(str(np.float32(value))) if math.isfinite(value) else None
