"""Encoded rows -> how much of them was proven."""

from __future__ import annotations

from dataclasses import dataclass, field

from framework.data.encode import EncodedRow
from framework.proofs.findings import Disproven


@dataclass(kw_only=True)
class ProofCounts:
    """What was proven, over all datasets of a part."""

    num_rows: int = 0
    """Rows whose every document keeps every rule."""
    num_documents: int = 0
    num_unproven_documents: int = 0
    """Those that a trainer made otherwise than by the encoder."""
    num_open_runs: int = 0
    """Stretches of trained tokens that end in no token that ends an answer: other roles, and
    answers that the over-length policy cut."""
    broken_rules: dict[str, int] = field(default_factory=dict)
    """Rows that break a rule, by the first that they break; they are refused."""

    def add(self, encoded: EncodedRow) -> None:
        """Counts a row."""
        if isinstance(encoded.error, Disproven):
            rule = encoded.error.finding.rule
            self.broken_rules[rule] = self.broken_rules.get(rule, 0) + 1
        if encoded.error is not None:
            return
        self.num_rows += 1
        self.num_documents += sum(len(features.documents) for features in encoded.features)
        self.num_unproven_documents += encoded.num_unproven
        self.num_open_runs += encoded.num_open
