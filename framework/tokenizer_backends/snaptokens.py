"""The package `snaptokens`: byte-level BPE from a `tokenizer.json`, in Rust."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.extras import missing_extra
from framework.core.problems import Problem

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Snaptokens:
    """`snaptokens`: a small part of the reference's time, for byte-level BPE tokenizers."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The package must be there."""
        return missing_extra("snaptokens", "fast-tokenizers", key="tokenizer.backend")

    def load(self, tokenizer_json: str) -> Callable[[str], Sequence[int]]:
        """Text -> ids, special tokens recognised and none added.

        Raises:
            ValueError: the tokenizer is of a kind that this package doesn't run.
        """
        from snaptokens import Tokenizer

        tokenizer = Tokenizer.from_json_str(tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        encode = tokenizer.encode
        return lambda text: encode(text, False).ids
