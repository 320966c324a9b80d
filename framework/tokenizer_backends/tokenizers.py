"""The `tokenizers` library, which every other backend is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """Hugging Face's `tokenizers`: the reference."""

    def load(self, tokenizer_json: str) -> Callable[[str], Sequence[int]]:
        """Text -> ids, special tokens recognised and none added."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
