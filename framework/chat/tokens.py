"""Text -> token ids, and how far two texts share them."""

from __future__ import annotations

import bisect
import functools
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from framework.core.problems import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_LONGEST_REMEMBERED = 64
_MOST_REMEMBERED = 4096
"""Characters and number of the short texts whose ids are kept."""
_MOST_RECENT = 8
"""Longer texts whose ids are kept."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A fast tokenizer, asked for plain ids: no special tokens added, nothing cut, no padding."""

    tokenizer: PreTrainedTokenizerFast
    backend: Callable[[str], Sequence[int]] | None = None
    """What tokenizes in the place of the `tokenizers` library, shown to give the same ids."""

    def ids(self, text: str) -> list[int]:
        """Ids of `text`, in which special tokens are recognised."""
        long = len(text) > _LONGEST_REMEMBERED
        known = self._recent if long else self._remembered
        found = known.get(text)
        if found is None:
            if len(known) == (_MOST_RECENT if long else _MOST_REMEMBERED):
                known.clear()
            found = known[text] = self._fresh_ids(text)
        return list(found)

    def _fresh_ids(self, text: str) -> list[int]:
        return self.reference_ids(text) if self.backend is None else list(self.backend(text))

    @functools.cached_property
    def _remembered(self) -> dict[str, list[int]]:
        """Ids of short texts: the ends of prompts are the same in every row."""
        return {}

    @functools.cached_property
    def _recent(self) -> dict[str, list[int]]:
        """Ids of the last long texts: the encoder and its proof ask for the same ones."""
        return {}

    def encode(self, text: str) -> Encoding:
        """Ids and character offsets of `text` by the `tokenizers` library, whatever the backend."""
        return self._library().encode(text, add_special_tokens=False)

    def reference_ids(self, text: str) -> list[int]:
        """Ids of `text` by the `tokenizers` library, whatever the backend."""
        (encoding,) = self._library().encode_batch_fast([text], add_special_tokens=False)
        return encoding.ids

    def _library(self) -> Tokenizer:
        library = self.tokenizer.backend_tokenizer
        # Every call of the tokenizer by other code may leave its own settings behind.
        if library.truncation is not None:
            library.no_truncation()
        if library.padding is not None:
            library.no_padding()
        if library.encode_special_tokens:
            library.encode_special_tokens = False
        return library

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
    def padding(self) -> int:
        """What a model with a head takes for padding; see `padding_id`."""
        from framework.models.tokenizer import padding_id

        return padding_id(self.tokenizer)

    @functools.cached_property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.tokenizer.get_vocab().values(), default=-1) + 1

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
    def anchor_text(self) -> re.Pattern[str] | None:
        """Finds the anchors in a text; None where some take white space around them along."""
        added = self.tokenizer.added_tokens_decoder
        if any(added[token].lstrip or added[token].rstrip for token in self.anchors):
            return None
        return self.special_text(self.anchors)

    @functools.cached_property
    def anchor_ids(self) -> Mapping[str, int]:
        """The anchors by their texts."""
        return {self.text_of(token): token for token in self.anchors}

    @functools.cached_property
    def prefix(self) -> tuple[int, ...]:
        """What the tokenizer puts before plain text by itself, such as BOS."""
        backend = self.tokenizer.backend_tokenizer
        plain = self.ids("x")
        full = backend.encode("x", add_special_tokens=True).ids
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start])
        return ()

    def special_text(self, tokens: frozenset[int]) -> re.Pattern[str]:
        """Finds the text of any of the tokens; the longest where several begin."""
        texts = sorted(filter(None, map(self.text_of, tokens)), key=len, reverse=True)
        if not texts:
            return re.compile(r"(?!)")
        # A search for what all of them begin with is far quicker than one for each of them.
        prefix = os.path.commonprefix(texts)  # noqa: RUF071 - characters are meant, not folders
        rests = "|".join(re.escape(text.removeprefix(prefix)) for text in texts)
        return re.compile(f"{re.escape(prefix)}(?:{rests})")


class BackendDisagrees(Exception):
    """Another tokenizer backend makes other tokens of a text than the `tokenizers` library."""


class Agreement(NamedTuple):
    """How far a text agrees with a rendered conversation, in tokens."""

    num_tokens: int
    """Tokens that both begin with."""
    whole: bool
    """Whether that is the whole of the text."""


class Anchors(NamedTuple):
    """Where the special tokens of a text stand, at which it is cut before all else."""

    positions: list[int]
    """Among the tokens."""
    starts: list[int]
    """First character of each."""
    ends: list[int]
    """Character after each."""


class Rendered:
    """A rendered conversation with its tokens.

    No dataclass: one is made for every document that is prepared.
    """

    def __init__(self, vocabulary: Vocabulary, tokens: list[int], *parts: str) -> None:
        """
        Args:
            parts: the text; in several parts where these are tokenized each by itself.
        """
        self.vocabulary = vocabulary
        self.tokens = tokens
        self.parts = parts
        self.text = parts[0] if len(parts) == 1 else "".join(parts)
        self._found_anchors: Anchors | None = None
        self._agreements: dict[str, Agreement] = {}

    @staticmethod
    def of(text: str, vocabulary: Vocabulary) -> Rendered:
        """Tokenizes the text."""
        return Rendered(vocabulary, vocabulary.ids(text), text)

    @functools.cached_property
    def offsets(self) -> list[tuple[int, int]]:
        """Characters of the text that each token covers.

        Raises:
            BackendDisagrees: the `tokenizers` library makes other tokens of the text.
        """
        found: list[tuple[int, int]] = []
        tokens: list[int] = []
        shift = 0
        for part in self.parts:
            encoding = self.vocabulary.encode(part)
            tokens += encoding.ids
            found += [(start + shift, end + shift) for start, end in encoding.offsets]
            shift += len(part)
        if tokens != self.tokens:
            raise BackendDisagrees(f"the backend makes other tokens of {self.text[:60]!r}")
        return found

    def start_of(self, token: int) -> int:
        """The first character of a token; between special tokens, where the one before ends."""
        anchors = self._anchors
        before = bisect.bisect_left(anchors.positions, token)
        if before < len(anchors.positions) and anchors.positions[before] == token:
            return anchors.starts[before]
        if before and anchors.positions[before - 1] == token - 1:
            return anchors.ends[before - 1]
        return self.offsets[token][0]

    def end_of(self, token: int) -> int:
        """The character after a token; the end of the text for its last token and any beyond."""
        if token >= len(self.tokens) - 1:
            return len(self.text)
        anchors = self._anchors
        at = bisect.bisect_left(anchors.positions, token)
        if at < len(anchors.positions):
            if anchors.positions[at] == token:
                return anchors.ends[at]
            if anchors.positions[at] == token + 1:
                return anchors.starts[at]
        return self.offsets[token][1]

    def between(self, start: int, stop: int) -> str:
        """The text of tokens `start` to `stop` - 1."""
        return self.text[self.start_of(start) : self.end_of(stop - 1)] if start < stop else ""

    def first_of(self, ids: Collection[int], start: int, stop: int) -> int | None:
        """Position of the first of these ids among the tokens from `start` to `stop` - 1."""
        found = None
        for token in ids:
            # Searching the list for one id after the other is far quicker than looking at each.
            try:
                found = stop = self.tokens.index(token, start, stop)
            except ValueError:
                continue
        return found

    @property
    def _anchors(self) -> Anchors:
        if self._found_anchors is None:
            self._found_anchors = self._anchors_of_text() or self._anchors_of_tokens()
        return self._found_anchors

    def _anchors_of_tokens(self) -> Anchors:
        anchors = self.vocabulary.anchors
        positions = [place for place, token in enumerate(self.tokens) if token in anchors]
        return Anchors(
            positions=positions,
            starts=[self.offsets[place][0] for place in positions],
            ends=[self.offsets[place][1] for place in positions],
        )

    def _anchors_of_text(self) -> Anchors | None:
        """The special tokens that the text shows; None where the tokens show others."""
        pattern = self.vocabulary.anchor_text
        # Cut in two, a text may hold the halves of a special token that it does not have.
        if pattern is None or len(self.parts) > 1:
            return None
        ids, tokens = self.vocabulary.anchor_ids, self.tokens
        positions: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        position = -1
        try:
            for found in pattern.finditer(self.text):
                position = tokens.index(ids[found.group()], position + 1)
                positions.append(position)
                starts.append(found.start())
                ends.append(found.end())
        except ValueError:
            return None
        return Anchors(positions=positions, starts=starts, ends=ends)

    def cut(self, character: int) -> Rendered:
        """The same text with its two parts tokenized each by itself.

        Where that would change the text, as with tokenizers that put a space before every text,
        it stays uncut.
        """
        parts = (self.text[:character], self.text[character:])
        tokens = [token for part in parts for token in self.vocabulary.ids(part)]
        if self.vocabulary.decode(tokens) != self.vocabulary.decode(self.tokens):
            return self
        return Rendered(self.vocabulary, tokens, *parts)

    def last_anchor(self, character: int) -> int:
        """Character at which the last special token before `character` ends; 0 without one."""
        ends = self._anchors.ends
        found = bisect.bisect_right(ends, character)
        return ends[found - 1] if found else 0

    def agreement(self, other: str) -> Agreement:
        """How many tokens this text and `other`, each tokenized by itself, begin with in common.

        Both are cut at their special tokens before they are tokenized, so what precedes the last
        special token that both contain needs no second look.
        """
        if other not in self._agreements:
            self._agreements[other] = self._agreement(other)
        return self._agreements[other]

    def _agreement(self, other: str) -> Agreement:
        anchors = self._anchors
        anchor = bisect.bisect_right(anchors.ends, common_length(self.text, other)) - 1
        first, character = 0, 0
        if anchor >= 0:
            first, character = anchors.positions[anchor], anchors.starts[anchor]
        tail = self.vocabulary.ids(other[character:])
        own = self.tokens[first : first + len(tail)]
        if own == tail:
            return Agreement(num_tokens=first + len(tail), whole=True)
        common = next(
            (place for place, (a, b) in enumerate(zip(own, tail, strict=False)) if a != b),
            len(own),
        )
        return Agreement(num_tokens=first + common, whole=False)


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
