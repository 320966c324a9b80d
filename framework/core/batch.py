"""Encoded documents and the flat batches, losses and policies that trainers work with."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

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
    numbers: tuple[float, ...] = ()
    """What else the trainer has to know of the sample, in its own order: a margin, a weight, a
    class, or one number for each trained token. Kept as float32."""
    text: str = ""
    """What is no number, such as the columns by which answers are judged, as JSON."""

    @property
    def num_tokens(self) -> int:
        """Over all documents."""
        return sum([len(document.tokens) for document in self.documents])

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max([len(document.tokens) for document in self.documents])

    @property
    def num_trained_tokens(self) -> int:
        """Over all documents."""
        return sum([document.trained.count(True) for document in self.documents])

    @property
    def is_trained(self) -> bool:
        """Whether any token is trained."""
        return any(True in document.trained for document in self.documents)


def each_alone(documents: Sequence[Encoded]) -> list[Features]:
    """A sample for each document."""
    return [Features(documents=(document,)) for document in documents]


def read_at_end(document: Encoded, padding: int | None = None) -> Encoded:
    """The same tokens, of which only the last one that is no padding is chosen.

    transformers reads a sequence classification model there, and the token that fills rows is for
    many models the one that ends texts too.

    Raises:
        ValueError: there is no such token, or only the first.
    """
    place = len(document.tokens) - 1
    while place > 0 and document.tokens[place] == padding:
        place -= 1
    if place < 1:
        raise ValueError("a document of one token has no last one besides its first")
    return replace(document, trained=tuple(at == place for at in range(len(document.tokens))))


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


class Segment(NamedTuple):
    """Tokens of a row that the same documents hold."""

    start: int
    """Row of its first token."""
    stop: int
    """Row after its last token."""
    last: int
    """Row after everything that continues it; `stop` where nothing does."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """How T tokens of documents, some of which begin alike, stand in a row of U: every common
    beginning once."""

    segments: tuple[Segment, ...]
    """Of the forest that the row is."""
    tokens: Tensor
    """int64 [U]: which of the T tokens stands in each row."""
    rows: Tensor
    """int64 [T]: the row of each token."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Documents laid end to end in one row; nothing is padded.

    T tokens in all, D documents, L labels, S samples, N numbers of the samples.
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
    sample_boundaries: Tensor
    """int64 [S + 1]: sample s holds documents sample_boundaries[s] to sample_boundaries[s + 1] - 1.
    """
    numbers: Tensor
    """float32 [N]: the samples' numbers, end to end."""
    sample_ids: tuple[str, ...]
    """S of them; none where a process has nothing to do and only takes part."""
    shared: Shared | None = None
    """How a policy may compute common beginnings once; None where no two documents begin alike.
    What labels and all else refer to are the T tokens."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A micro-batch's part of the global batch's loss."""

    sum: Tensor
    """float32 []: summed over the items that the trainer counts (`Trainer.num_items`); the engine
    divides by their number in the global batch."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 []: further sums over the same items, detached, for the log; every batch, even one
    without samples, has the same."""
    of_samples: Tensor | None = None
    """float32 [S], detached, for the log: the mean over each sample's own items, whatever they
    weigh. None where samples have no loss of their own, as when they are compared with each other;
    of one trainer, either all batches have it or none."""


@runtime_checkable
class Limited(Protocol):
    """A policy that knows how long a document may be."""

    @property
    def num_positions(self) -> int | None:
        """Tokens of the longest document that the model has positions for; None: it sets none."""
        ...


class Policy(Protocol):
    """The model as trainers see it."""

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """float32 [L]: -log p(label | the tokens before it in its document)."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """[L, V]: logits at the label positions, in the model's dtype."""
        ...


@dataclass(frozen=True, kw_only=True)
class TopTokens:
    """The tokens that a model finds most likely at L labels, K at each."""

    ids: Tensor
    """int64 [L, K], most likely first."""
    log_probabilities: Tensor
    """float32 [L, K + 1]: of each of them, and of all other tokens together; [L, K] where there are
    no others."""
    num_vocabulary: int
    """Ids below it were asked about."""


@runtime_checkable
class TopPolicy(Protocol):
    """A reference of which only the most likely tokens are known."""

    def top_tokens(self, batch: Batch) -> TopTokens:
        """What is known at the batch's labels."""
        ...
