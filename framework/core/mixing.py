"""How datasets are mixed over a run: stages, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run within which samples are shuffled."""

    share: float
    """Its part of the whole, in trained tokens or rows as the recipe counts."""
    weights: Mapping[str, float]
    """The share that each dataset has of this stage; they add up to 1."""
