"""Samples with an answer -> the documents that teach it, each with its sample's weight."""

from __future__ import annotations

from collections.abc import Sequence

from framework.core.batch import Features
from framework.core.protocols.training import Chat
from framework.core.samples import Completion, Conversation, Document, Sample, Tokenized


def supervised_features(sample: Sample, chat: Chat) -> Sequence[Features]:
    """A sample of one document, or one for each turn where the recipe says so; its only number is
    how much it counts in the loss."""
    match sample:
        case Conversation():
            documents = chat.conversation(sample)
        case Completion():
            documents = [chat.completion(sample)]
        case Tokenized():
            documents = [chat.tokenized(sample)]
        case Document():
            documents = [chat.document(sample)]
        case _:
            raise AssertionError(f"{type(sample).__name__} has no answer to learn")
    weight = 1.0 if sample.weight is None else sample.weight
    return [Features(documents=(document,), numbers=(weight,)) for document in documents]
