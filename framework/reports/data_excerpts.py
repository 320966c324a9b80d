"""Samples of prepared data -> their beginning and end as readable text."""

from __future__ import annotations

from dataclasses import dataclass

from framework.chat.tokens import Vocabulary
from framework.core.batch import Encoded
from framework.data.preview import Piece, readable_pieces
from framework.data.store import Store

MOST_TOKENS = 400
"""Of a sample that are shown: half of them from its beginning, half from its end."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """What is shown of a sample; all of it unless it is long."""

    identifier: str
    num_tokens: int
    num_trained_tokens: int
    num_documents: int
    why: str
    """What it is shown for; empty for a random one."""
    beginning: tuple[Piece, ...]
    num_left_out: int
    """Tokens between beginning and end."""
    end: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """Without marks for what is trained; `[...]` stands for what is left out."""
        beginning, end = ("".join(piece.text for piece in part) for part in self.parts)
        return f"{beginning}[...]{end}" if self.num_left_out else beginning

    @property
    def parts(self) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
        """Beginning and end."""
        return self.beginning, self.end


def excerpt(store: Store, vocabulary: Vocabulary, sample: int, why: str = "") -> Excerpt:
    """A sample's first and last tokens; its documents, where it has several, joined."""
    documents = store.features(sample).documents
    tokens = tuple(token for document in documents for token in document.tokens)
    trained = tuple(flag for document in documents for flag in document.trained)
    num_left_out = max(len(tokens) - MOST_TOKENS, 0)
    stop = len(tokens) if not num_left_out else MOST_TOKENS // 2
    start = stop + num_left_out

    def pieces(first: int, last: int) -> tuple[Piece, ...]:
        part = Encoded(tokens=tokens[first:last], trained=trained[first:last])
        return tuple(readable_pieces(part, vocabulary))

    return Excerpt(
        identifier=store.sample_id(sample),
        num_tokens=len(tokens),
        num_trained_tokens=sum(trained),
        num_documents=len(documents),
        why=why,
        beginning=pieces(0, stop),
        num_left_out=num_left_out,
        end=pieces(start, len(tokens)),
    )
