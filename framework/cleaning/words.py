"""Text -> its words, alike however they are written, and runs of words as numbers."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1780-\u17ff"
"""Scripts without spaces between words: each character counts as one."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_MULTIPLIER = 0x9E3779B97F4A7C15


def words_of(text: str) -> list[str]:
    """Words in order, without capitals, punctuation and differences of Unicode form."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.casefold())


def squeezed(text: str) -> str:
    """The text without capitals and with single spaces, punctuation kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def run_hashes(words: Sequence[str], length: int) -> NDArray[np.uint64]:
    """A number for every run of `length` words, the same in every process; distinct and sorted."""
    import numpy as np

    if len(words) < length:
        return np.empty(0, dtype=np.uint64)
    single = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    num_runs = len(words) - length + 1
    runs = np.zeros(num_runs, dtype=np.uint64)
    for at in range(length):
        runs = (runs + single[at : at + num_runs]) * np.uint64(_MULTIPLIER)
        runs ^= runs >> np.uint64(29)
    return np.unique(runs)
