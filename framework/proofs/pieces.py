"""A proven document and what an over-length policy made of it -> the rules that this breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from framework.chat.tokens import Vocabulary
from framework.core.batch import Encoded
from framework.proofs.conversation import trained_runs
from framework.proofs.findings import Finding, around

Places = Sequence[int]
"""Where in the whole document each token of a piece comes from."""


@dataclass(frozen=True, kw_only=True)
class PiecesProof:
    """A document that was too long and what is trained in its place."""

    whole: Encoded
    pieces: Sequence[Encoded]
    others: Sequence[Encoded]
    """Documents that are proven by themselves; a policy may have encoded parts of the sample."""
    max_length: int
    truncated: bool
    """Tokens are lost on purpose."""
    num_cut_answers: int | None
    """Answers that are said to have lost their end; None where the document has no answers."""
    vocabulary: Vocabulary

    def findings(self) -> Iterator[Finding]:
        """Every rule that the pieces break; dropping the document breaks none."""
        places: list[Places] = []
        used: set[int] = set()
        for number, piece in enumerate(self.pieces, start=1):
            if len(piece.tokens) > self.max_length:
                detail = f"piece {number} has {len(piece.tokens)} tokens"
                yield Finding(rule="piece_length", detail=detail)
            if any(piece == other for other in self.others):
                continue
            first = places[-1][0] if places else 0
            found = self._place(piece, first, used, number)
            if isinstance(found, Finding):
                yield found
                return
            places.append(found)
            used |= _trained(piece, found)
        if places and len(places) == len(self.pieces):
            yield from self._cut(used)
            if not self.truncated:
                yield from self._lost(places, used)

    def _cut(self, used: set[int]) -> Iterator[Finding]:
        """Answers that lost their stop token, unless the policy said that they do."""
        runs = trained_runs(self.whole.trained)
        cut = [
            (start, stop)
            for start, stop in runs
            if stop - 1 not in used and any(place in used for place in range(start, stop))
        ]
        if self.num_cut_answers is not None and len(cut) != self.num_cut_answers:
            place = cut[0][1] - 1 if cut else 0
            yield self._finding(
                "cut_answer",
                f"{len(cut)} answers lost the token at which to stop, the policy counts "
                f"{self.num_cut_answers}",
                place,
            )

    def _lost(self, places: Sequence[Places], used: set[int]) -> Iterator[Finding]:
        kept = {place for piece in places for place in piece}
        for place, trained in enumerate(self.whole.trained):
            if place not in kept or (trained and place not in used):
                yield self._finding("lost_tokens", "is lost", place)
                return

    def _place(self, piece: Encoded, first: int, used: set[int], number: int) -> Places | Finding:
        """Where the piece comes from: one slice from `first` on, or the two ends of the whole."""
        rule, place = "piece_tokens", 0
        for places in self._candidates(piece, first):
            trained = _trained(piece, places)
            leaked = next((at for at in trained if not self.whole.trained[at]), None)
            if leaked is not None:
                rule, place = "piece_leak", leaked
            elif trained & used:
                rule, place = "trained_twice", min(trained & used)
            else:
                return places
        what = {
            "piece_tokens": "is no slice of the document, or out of order",
            "piece_leak": "trains what the document doesn't",
            "trained_twice": "trains what another piece trains",
        }[rule]
        return self._finding(rule, f"piece {number} {what}", place)

    def _candidates(self, piece: Encoded, first: int) -> Iterator[Places]:
        tokens, part = self.whole.tokens, piece.tokens
        length = len(part)
        for start in range(first, len(tokens) - length + 1):
            if tokens[start] == part[0] and tokens[start : start + length] == part:
                yield range(start, start + length)
        if not self.truncated:
            return
        # The beginning, and a slice from further on.
        head = _num_equal(tokens, part)
        for cut in range(min(head, length - 1), 0, -1):
            rest = part[cut:]
            for start in range(len(tokens) - len(rest), cut, -1):
                if tokens[start] == rest[0] and tokens[start : start + len(rest)] == rest:
                    yield [*range(cut), *range(start, start + len(rest))]

    def _finding(self, rule: str, detail: str, place: int) -> Finding:
        shown = around(self.whole, place, self.vocabulary)
        return Finding(rule=rule, detail=f"{detail}; {shown}")


def _trained(piece: Encoded, places: Places) -> set[int]:
    return {at for at, trained in zip(places, piece.trained, strict=True) if trained}


def _num_equal(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
