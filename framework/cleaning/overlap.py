"""Texts of held-out rows -> which of them another text repeats, by runs of words."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.cleaning.words import run_hashes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEWEST_SHARING = 3
_SHARING = 0.01
"""A run of words in more than 3 rows, and more than this share of them, is a form and no content:
an instruction that every row begins with."""


class OverlapIndex:
    """Finds the text of which another holds most runs of words; 12 bytes for each run."""

    def __init__(self, run_length: int) -> None:
        self._run_length = run_length
        self._runs: list[NDArray[np.uint64]] = []
        self._rows = array("q")

    def add(self, words: Sequence[str], row: int) -> None:
        """Adds a text of a row under the next number, from 0."""
        self._runs.append(run_hashes(words, self._run_length))
        self._rows.append(row)

    def finished(self) -> _Lookup:
        """What finds; the index itself is empty then."""
        import numpy as np

        sizes = [len(runs) for runs in self._runs]
        hashes = np.concatenate([*self._runs, np.empty(0, dtype=np.uint64)])
        owners = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
        self._runs.clear()
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        common = self._common(hashes, owners)
        hashes, owners = hashes[~common], owners[~common]
        return _Lookup(
            run_length=self._run_length,
            hashes=hashes,
            owners=owners,
            num_runs=np.bincount(owners, minlength=len(sizes)),
        )

    def _common(self, hashes: NDArray[np.uint64], owners: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of the sorted runs are in too many rows."""
        import numpy as np

        rows = np.frombuffer(self._rows, dtype=np.int64)
        most = max(_FEWEST_SHARING, int(_SHARING * len(np.unique(rows))))
        begins = np.concatenate([np.ones(1, bool), hashes[1:] != hashes[:-1]])[: len(hashes)]
        group = np.cumsum(begins) - 1
        pairs = np.unique(np.stack([group, rows[owners]]), axis=1)[0]
        return np.bincount(pairs, minlength=1)[group] > most


@dataclass(frozen=True, kw_only=True)
class _Lookup:
    run_length: int
    hashes: NDArray[np.uint64]
    """Of all texts, sorted."""
    owners: NDArray[np.uint32]
    """The text of each."""
    num_runs: NDArray[np.int64]
    """Of each text."""

    def most_repeated(self, words: Sequence[str]) -> tuple[int, float] | None:
        """(the text of whose runs the largest share is among these words', that share)."""
        import numpy as np

        runs = run_hashes(words, self.run_length)
        begins = np.searchsorted(self.hashes, runs, side="left")
        ends = np.searchsorted(self.hashes, runs, side="right")
        found = [self.owners[a:b] for a, b in zip(begins, ends, strict=True) if a < b]
        if not found:
            return None
        counts = np.bincount(np.concatenate(found))
        shares = counts / np.maximum(self.num_runs[: len(counts)], 1)
        best = int(np.argmax(shares))
        return best, float(shares[best])
