"""What a proof found: a row of the table in docs/proofs.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One proof, run."""

    case: str
    """What was tried, in words."""
    tries: int
    """How often."""
    failures: int
    """How many of the tries went otherwise than promised."""
    notes: str
    """What else was measured, and how each failure can be seen again."""
