"""Encoded documents and the flat batches, losses and policies that trainers work with."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One tokenized document and which of its tokens are trained."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    """`trained[i]`: token i is predicted from the tokens before it and counts in the loss.

    The first token has nothing before it and is never trained.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes as bytes: a tuple of numbers would be pickled one by one.
        return _unpickled, (array("I", self.tokens).tobytes(), bytes(self.trained))


def _unpickled(tokens: bytes, trained: bytes) -> Encoded:
    return Encoded(tokens=tuple(array("I", tokens)), trained=tuple(map(bool, trained)))


@dataclass(frozen=True, kw_only=True)
class Features:
    """What one sample becomes: the documents that must stay in one batch, in a trainer's order."""

    documents: tuple[Encoded, ...]

    @property
    def num_tokens(self) -> int:
        """Over all documents."""
        return sum([len(document.tokens) for document in self.documents])

    @property
    def num_trained_tokens(self) -> int:
        """Over all documents."""
        return sum([document.trained.count(True) for document in self.documents])


def slice_document(document: Encoded, start: int, stop: int, *, first_trained: int = 0) -> Encoded:
    """Tokens `start` to `stop` - 1 as a document of their own.

    Its first token has nothing before it any more and is not trained; neither is any before
    `first_trained`, counted in the whole document.
    """
    untrained = max(first_trained - start, 1)
    trained = document.trained[start:stop]
    return Encoded(
        tokens=document.tokens[start:stop],
        trained=(*(False,) * min(untrained, len(trained)), *trained[untrained:]),
    )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents laid end to end in one row; nothing is padded.

    T tokens in all, D documents, L labels.
    """

    input_ids: Tensor
    """int64 [1, T]"""
    position_ids: Tensor
    """int64 [1, T], restarting at 0 in every document."""
    boundaries: Tensor
    """int32 [D + 1]: document d holds tokens boundaries[d] to boundaries[d + 1] - 1."""
    max_document_length: int
    label_positions: Tensor
    """int64 [L]: the positions whose next token is trained."""
    labels: Tensor
    """int64 [L]: that next token."""
    label_documents: Tensor
    """int64 [L]: the document of each label."""
    sample_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A micro-batch's part of the global batch's loss."""

    sum: Tensor
    """float32 []: summed over `num_items`; the engine divides by the global number."""
    num_items: int
    """What `sum` runs over: trained tokens for SFT."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 []: further sums over the same items, for the log."""


class Policy(Protocol):
    """The model as trainers see it."""

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """float32 [L]: -log p(label | the tokens before it in its document)."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """[L, V]: logits at the label positions, in the model's dtype."""
        ...
