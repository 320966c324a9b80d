"""Texts -> those before that share most of their runs of words, by MinHash and a count."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.cleaning.words import run_hashes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_PER_BAND = 4
_MISSED = 0.001
"""How often a pair just at the threshold has no band in common, and is not looked at."""
_LARGEST_SKETCH = 1024
"""Runs that are kept of a text, the smallest numbers of them: up to so many the similarity is
exact, beyond it has a standard deviation of about 0.015."""
_SEED = 20_240_917


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What is compared of a text."""

    hashes: NDArray[np.uint32]
    """The smallest of its runs' numbers, sorted."""
    minhash: Any


class SimilarityIndex:
    """Finds, among the texts that were added, the one most like another.

    Candidates come from rensa's MinHash LSH; each is verified by the Jaccard similarity of the
    runs of words, which is counted and not estimated for texts of up to 1,024 different runs.
    """

    def __init__(self, threshold: float, run_length: int) -> None:
        from rensa import RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]

        self._threshold = threshold
        self._run_length = run_length
        missed_by_one = 1 - threshold**_ROWS_PER_BAND
        num_bands = 1 if not missed_by_one else math.ceil(math.log(_MISSED, missed_by_one))
        self._num_permutations = num_bands * _ROWS_PER_BAND
        self._lsh = RMinHashLSH(
            threshold=threshold, num_perm=self._num_permutations, num_bands=num_bands
        )
        self._hashes = array("I")
        self._ends = array("q", [0])

    def sketch(self, words: Sequence[str]) -> Sketch | None:
        """What is compared of a text; None if it has no words."""
        import numpy as np
        from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

        if not words:
            return None
        runs = run_hashes(words, min(self._run_length, len(words)))
        hashes = np.unique((runs >> np.uint64(32)).astype(np.uint32))
        minhash = RMinHash(num_perm=self._num_permutations, seed=_SEED)
        minhash.update([run.tobytes() for run in hashes])
        return Sketch(hashes=hashes[:_LARGEST_SKETCH], minhash=minhash)

    def find(self, sketch: Sketch) -> tuple[int, float] | None:
        """(which text that was added, Jaccard similarity) of the most similar; the first of
        several; None if none reaches the threshold."""
        found = [(self._similarity(key, sketch), -key) for key in self._lsh.query(sketch.minhash)]
        similarity, key = max(found, default=(0.0, 0))
        return (-key, similarity) if similarity >= self._threshold else None

    def add(self, sketch: Sketch) -> None:
        """Adds a text under the next number, from 0."""
        self._lsh.insert(len(self._ends) - 1, sketch.minhash)
        self._hashes.frombytes(sketch.hashes.tobytes())
        self._ends.append(len(self._hashes))

    def _similarity(self, key: int, sketch: Sketch) -> float:
        import numpy as np

        stored = self._hashes[self._ends[key] : self._ends[key + 1]]
        both = np.concatenate([np.frombuffer(stored, dtype=np.uint32), sketch.hashes])
        both.sort()
        twice = both[1:][both[1:] == both[:-1]]
        num_union = len(both) - len(twice)
        if max(len(stored), len(sketch.hashes)) < _LARGEST_SKETCH:
            return len(twice) / num_union
        # The smallest numbers of the union are a random sample of it.
        largest = np.unique(both)[:_LARGEST_SKETCH][-1]
        num_sampled = min(num_union, _LARGEST_SKETCH)
        return int(np.searchsorted(twice, largest, side="right")) / num_sampled
