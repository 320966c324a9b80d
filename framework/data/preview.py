"""Prepared data -> its numbers, and its samples token by token: what is shown is what trains."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from framework.chat.tokens import Vocabulary
from framework.core.batch import Encoded
from framework.data.store import Store

MOST_BINS = 16
"""Bars of a length histogram."""
MOST_JOINED = 32
"""Tokens that are looked through for the end of a character."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_JOINERS = "\u200c\u200d"
"""Invisible characters that belong into emoji and scripts, and stay."""


class Histogram(TypedDict):
    """How many documents or samples have which number; one edge more than counts."""

    edges: list[int]
    """Bar i holds the numbers from edges[i] to edges[i + 1] - 1, such as lengths in tokens."""
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class DataNumbers:
    """What one part of the data has become."""

    num_rows: int
    num_samples: int
    num_documents: int
    num_tokens: int
    num_trained_tokens: int
    num_over_length_rows: int
    """Rows of more than `data.max_length` tokens, whatever was then done to them."""
    num_cut_rows: int = 0
    num_split_rows: int = 0
    num_dropped_rows: int = 0
    """What was done to them: some tokens taken out, made several samples, left out."""
    num_cut_answers: int = 0
    """Answers that are trained without the token at which to stop."""
    num_lost_trained_tokens: int = 0
    """Tokens of those rows that would have been trained and are not."""
    num_untrained_rows: int
    """Rows with nothing to train; they are left out."""
    num_skipped_rows: int
    """Rows that do not fit their format; they are left out."""
    longest: int
    """Tokens of the longest document."""
    num_packs: int | None
    """None when samples are not packed."""
    packing_efficiency: float | None
    """Share of all packs that is filled; None when samples are not packed."""
    num_shared_tokens: int = 0
    """Tokens that a sample has in common with others of its pack, which computes them once."""
    length_histogram: Histogram

    @property
    def trained_share(self) -> float:
        """Trained tokens per token."""
        return self.num_trained_tokens / max(self.num_tokens, 1)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The fewest tokens that are readable text by themselves: one, or those of a character."""

    text: str
    token_ids: tuple[int, ...]
    position: int
    """Of the first token in its document, from 0."""
    trained: bool
    special: bool


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """One sample as the model will see it."""

    identifier: str
    """Its id in `samples.jsonl`."""
    documents: tuple[tuple[Piece, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Over all documents."""
        return sum(len(piece.token_ids) for pieces in self.documents for piece in pieces)

    @property
    def num_trained_tokens(self) -> int:
        """Over all documents."""
        return sum(
            len(piece.token_ids) for pieces in self.documents for piece in pieces if piece.trained
        )


def data_numbers(store: Store) -> DataNumbers:
    """Everything that is counted about a part of the data."""
    datasets = store.details["datasets"]
    efficiency = store.details["packing_efficiency"]
    lengths = store.document_lengths()

    def total(name: str) -> int:
        return sum(counts[name] for counts in datasets)

    return DataNumbers(
        num_rows=total("num_rows"),
        num_samples=store.num_samples,
        num_documents=len(lengths),
        num_tokens=store.num_tokens,
        num_trained_tokens=total("num_trained_tokens"),
        num_over_length_rows=total("num_over_length_rows"),
        num_cut_rows=total("num_cut_rows"),
        num_split_rows=total("num_split_rows"),
        num_dropped_rows=total("num_dropped_rows"),
        num_cut_answers=total("num_cut_answers"),
        num_lost_trained_tokens=total("num_lost_trained_tokens"),
        num_untrained_rows=total("num_untrained_rows"),
        num_skipped_rows=total("num_skipped_rows"),
        longest=int(lengths.max(initial=0)),
        num_packs=None if efficiency is None else store.num_units,
        num_shared_tokens=int(store.arrays["shared"].sum()),
        packing_efficiency=efficiency,
        length_histogram=histogram(lengths),
    )


def found_formats(store: Store) -> list[str]:
    """For each dataset whose format was found and not named: which, and why."""
    return [
        f"{one['name']}: auto finds {one['format']}, as {one['format_reason']}"
        for one in store.details["datasets"]
        if one["format_reason"]
    ]


def length_histogram(store: Store) -> Histogram:
    """Documents by length, in at most 16 bars of a round width."""
    return histogram(store.document_lengths())


def shown_samples(store: Store, vocabulary: Vocabulary, count: int) -> Iterator[ShownSample]:
    """The first `count` samples of the store, token by token."""
    for index in range(min(count, store.num_samples)):
        yield ShownSample(
            identifier=store.sample_id(index),
            documents=tuple(
                tuple(readable_pieces(document, vocabulary))
                for document in store.features(index).documents
            ),
        )


def readable_pieces(document: Encoded, vocabulary: Vocabulary) -> Iterator[Piece]:
    """The document's tokens in order, joined where only several of them make a character.

    A byte that is part of no character, as where a text was cut, shows as its token's id. Control
    characters show as visible signs, line breaks and tabs excepted.
    """
    start = 0
    while start < len(document.tokens):
        first = document.tokens[start]
        special = first in vocabulary.special
        if special:
            count, text = 1, vocabulary.text_of(first)
        else:
            count, text = _character(document, start, vocabulary)
        yield Piece(
            text=visible(text),
            token_ids=document.tokens[start : start + count],
            position=start,
            trained=document.trained[start],
            special=special,
        )
        start += count


def visible(text: str) -> str:
    """The text with signs in the place of characters that would command a terminal or a page."""
    if text.isprintable():
        return text
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in _JOINERS:
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"}:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def _character(document: Encoded, start: int, vocabulary: Vocabulary) -> tuple[int, str]:
    """(Number, text) of the fewest tokens from `start` on that are whole characters."""
    limit = min(start + MOST_JOINED, len(document.tokens))
    for stop in range(start + 1, limit + 1):
        if stop > start + 1 and (
            document.tokens[stop - 1] in vocabulary.special
            or document.trained[stop - 1] != document.trained[start]
        ):
            break
        text = _text(document.tokens[start:stop], vocabulary)
        if _REPLACEMENT not in text:
            return stop - start, text
    return 1, f"⟨{document.tokens[start]}⟩"


def _text(tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    """What the tokens add to a text: some decoders treat the beginning of a text differently."""
    before = vocabulary.ids("x")
    return vocabulary.decode([*before, *tokens]).removeprefix(vocabulary.decode(before))


def histogram(lengths: NDArray[np.int64]) -> Histogram:
    """Whole numbers from 0 on in at most 16 bars of a round width."""
    width = _round_width(int(lengths.max(initial=0)) + 1)
    first = int(lengths.min()) // width if len(lengths) else 0
    counts = np.bincount(lengths // width, minlength=1)[first:]
    edges = [(first + number) * width for number in range(len(counts) + 1)]
    return Histogram(edges=edges, counts=counts.tolist())


def _round_width(span: int) -> int:
    """1, 2, 5, 10, 20 ...: the first of which `MOST_BINS` cover the span."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale * MOST_BINS >= span:
                return step * scale
        scale *= 10
