"""Text -> token ids, and how far two texts share them."""

from __future__ import annotations

import bisect
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.problems import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A fast tokenizer, asked for plain ids: no special tokens added, nothing cut, no padding."""

    tokenizer: PreTrainedTokenizerFast

    def encode(self, text: str) -> Encoding:
        """Ids and character offsets of `text`, in which special tokens are recognised."""
        backend = self.tokenizer.backend_tokenizer
        # Every call of the tokenizer by other code may leave its own settings behind.
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens:
            backend.encode_special_tokens = False
        return backend.encode(text, add_special_tokens=False)

    def decode(self, tokens: list[int]) -> str:
        """The exact text of the tokens, special tokens included."""
        return self.tokenizer.backend_tokenizer.decode(tokens, skip_special_tokens=False)

    def text_of(self, token: int) -> str:
        """The token as it is written in a recipe."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    @property
    def end_of_sequence(self) -> int | None:
        """The tokenizer's EOS token."""
        token = self.tokenizer.eos_token_id
        return token if isinstance(token, int) else None

    @functools.cached_property
    def special(self) -> frozenset[int]:
        """Ids of the special tokens."""
        added = self.tokenizer.added_tokens_decoder.items()
        flagged = {token for token, content in added if content.special}
        return frozenset(flagged | set(self.tokenizer.all_special_ids))

    @functools.cached_property
    def anchors(self) -> frozenset[int]:
        """Tokens at which every text is cut before anything else happens to it."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(
            token
            for token, content in added
            if content.special and not content.normalized and not content.single_word
        )

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """What the tokenizer puts before plain text by itself, such as BOS."""
        backend = self.tokenizer.backend_tokenizer
        plain = self.encode("x").ids
        full = backend.encode("x", add_special_tokens=True).ids
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start])
        return ()

    def special_text(self, tokens: frozenset[int]) -> re.Pattern[str]:
        """Finds the text of any of the tokens; the longest where several begin."""
        texts = sorted((self.text_of(token) for token in tokens), key=len, reverse=True)
        return re.compile("|".join(re.escape(text) for text in texts if text) or r"(?!)")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a text agrees with a rendered conversation, in tokens."""

    num_tokens: int
    """Tokens that both begin with."""
    whole: bool
    """Whether that is the whole of the text."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A rendered conversation with its tokens."""

    vocabulary: Vocabulary
    text: str
    tokens: list[int]
    offsets: list[tuple[int, int]]
    """Characters of `text` that each token covers."""

    @staticmethod
    def of(text: str, vocabulary: Vocabulary) -> Rendered:
        """Tokenizes the text."""
        encoding = vocabulary.encode(text)
        return Rendered(
            vocabulary=vocabulary, text=text, tokens=encoding.ids, offsets=encoding.offsets
        )

    @functools.cached_property
    def _anchors(self) -> tuple[list[int], list[int]]:
        """Anchor tokens: their positions and the characters at which they end."""
        anchors = self.vocabulary.anchors
        positions = [place for place, token in enumerate(self.tokens) if token in anchors]
        return positions, [self.offsets[place][1] for place in positions]

    def cut(self, character: int) -> Rendered:
        """The same text with its two parts tokenized each by itself.

        Where that would change the text, as with tokenizers that put a space before every text,
        it stays uncut.
        """
        first = self.vocabulary.encode(self.text[:character])
        second = self.vocabulary.encode(self.text[character:])
        tokens = [*first.ids, *second.ids]
        if self.vocabulary.decode(tokens) != self.vocabulary.decode(self.tokens):
            return self
        shifted = [(start + character, end + character) for start, end in second.offsets]
        return Rendered(
            vocabulary=self.vocabulary,
            text=self.text,
            tokens=tokens,
            offsets=[*first.offsets, *shifted],
        )

    def last_anchor(self, character: int) -> int:
        """Character at which the last special token before `character` ends; 0 without one."""
        _, ends = self._anchors
        found = bisect.bisect_right(ends, character)
        return ends[found - 1] if found else 0

    def agreement(self, other: str) -> Agreement:
        """How many tokens this text and `other`, each tokenized by itself, begin with in common.

        Both are cut at their special tokens before they are tokenized, so what precedes the last
        special token that both contain needs no second look.
        """
        positions, ends = self._anchors
        anchor = bisect.bisect_right(ends, common_length(self.text, other)) - 1
        first, character = 0, 0
        if anchor >= 0:
            first = positions[anchor]
            character = self.offsets[first][0]
        tail = self.vocabulary.encode(other[character:]).ids
        own = self.tokens[first : first + len(tail)]
        common = next(
            (place for place, (a, b) in enumerate(zip(own, tail, strict=False)) if a != b),
            len(own),
        )
        return Agreement(num_tokens=first + common, whole=common == len(tail))


def common_length(left: str, right: str) -> int:
    """Number of characters that both texts begin with."""
    shorter = min(len(left), len(right))
    if left.startswith(right) or right.startswith(left):
        return shorter
    return (
        bisect.bisect_left(range(1, shorter + 1), True, key=lambda n: left[:n] != right[:n])
        if shorter
        else 0
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The tokenizer as masks need it.

    Raises:
        UserError: it is not a fast tokenizer, which alone knows where each token's text is.
    """
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            hint="use a model folder that has a `tokenizer.json`",
        )
    return Vocabulary(tokenizer=tokenizer)
