"""Documents that belong together and what is left of them -> the rules that the cut breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from framework.core.batch import Encoded
from framework.proofs.findings import Finding


@dataclass(frozen=True, kw_only=True)
class EvenCut:
    """A sample's documents, all without the same untrained beginning."""

    whole: Sequence[Encoded]
    left: Sequence[Encoded]
    longest: int
    """In tokens."""

    def findings(self) -> Iterator[Finding]:
        """Every rule that is broken."""
        if len(self.whole) != len(self.left):
            detail = f"{len(self.left)} documents are left of {len(self.whole)}"
            yield Finding(rule="documents", detail=detail)
            return
        lost: list[tuple[int, ...]] = []
        for number, (whole, left) in enumerate(zip(self.whole, self.left, strict=True), start=1):
            start = len(whole.tokens) - len(left.tokens)
            if len(left.tokens) > self.longest:
                detail = f"document {number} has {len(left.tokens)} tokens"
                yield Finding(rule="piece_length", detail=detail)
            if not left.tokens or left.tokens != whole.tokens[start:]:
                yield Finding(rule="piece_tokens", detail=f"document {number} is not the end")
            elif left.trained != whole.trained[start:]:
                yield Finding(rule="piece_leak", detail=f"document {number} has another mask")
            elif True in whole.trained[:start]:
                yield Finding(rule="lost_tokens", detail=f"document {number} loses what is trained")
            lost.append(whole.tokens[:start])
        if len(set(lost)) > 1:
            yield Finding(rule="piece_tokens", detail="the documents lose different beginnings")
