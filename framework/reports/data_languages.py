"""Prepared data -> the languages of what is trained."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framework.chat.tokens import Vocabulary
from framework.data.store import Store
from framework.reports.data_copies import Missing

FEWEST_LETTERS = 20
"""A trained text with fewer says nothing about its language."""
TOO_SHORT = "too short to tell"

_MOST_TOKENS = 1000
"""Of a sample, from its beginning."""
_MOST_IDS = 3


@dataclass(frozen=True, kw_only=True)
class Language:
    """One language of the data."""

    code: str
    """ISO 639-1, or `TOO_SHORT`."""
    num_samples: int
    identifiers: tuple[str, ...]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class Languages:
    """What languages the samples that were looked at are in, most frequent first."""

    num_samples: int
    found: tuple[Language, ...]


def languages(
    store: Store, vocabulary: Vocabulary, samples: NDArray[np.int64]
) -> Languages | Missing:
    """The language of each sample's trained text, as py3langid tells it."""
    if importlib.util.find_spec("py3langid") is None:
        return Missing(package="py3langid", extra="cleaning")
    from py3langid import classify

    special = np.fromiter(vocabulary.special, dtype=np.int64)
    ends = store.sample_ends()
    members: dict[str, list[int]] = {}
    for sample in samples.tolist():
        start = int(ends[sample - 1]) if sample else 0
        tokens = store.tokens[start : ends[sample]]
        trained = tokens[store.trained[start : ends[sample]] == 1][:_MOST_TOKENS]
        text = vocabulary.decode(trained[~np.isin(trained, special)].tolist())
        enough = sum(map(str.isalpha, text)) >= FEWEST_LETTERS
        members.setdefault(classify(text)[0] if enough else TOO_SHORT, []).append(sample)
    found = [
        Language(
            code=code,
            num_samples=len(of_code),
            identifiers=tuple(store.sample_id(one) for one in of_code[:_MOST_IDS]),
        )
        for code, of_code in members.items()
    ]
    found.sort(key=lambda language: (-language.num_samples, language.code))
    return Languages(num_samples=len(samples), found=tuple(found))
