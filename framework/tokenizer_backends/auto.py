"""The fastest backend that is installed and agrees with the reference."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.registries import registry

if TYPE_CHECKING:
    from framework.core.protocols.data import TokenizerBackend

_FASTEST_FIRST = ("snaptokens", "kitoken")
"""Backends with the names of their packages."""


@dataclass(frozen=True, kw_only=True)
class Auto:
    """`auto`: the fastest one that `pip install 'framework[fast-tokenizers]'` brought and that
    gives the reference's ids, as soon as there are texts enough to be worth it; else the reference.
    """

    def choices(self) -> Iterator[TokenizerBackend]:
        """Those that are installed, the fastest first."""
        for name in _FASTEST_FIRST:
            if importlib.util.find_spec(name) is not None:
                yield registry("tokenizer_backends").get(name)()
