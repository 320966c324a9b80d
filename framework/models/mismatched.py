"""A batch -> the same prompts, each with the answer to another one."""

from __future__ import annotations

from itertools import pairwise

from framework.core.batch import Batch, Encoded, each_alone
from framework.models.collate import flat_batch, on_device


def mismatched(batch: Batch, num_positions: int | None) -> Batch:
    """Documents of the prompt of one sample and the answer of the one before it; the first prompt
    has the last answer. An answer begins with its document's first label.

    Args:
        batch: one document for each sample.
        num_positions: answers are cut to fit so many tokens.
    """
    documents = _documents(batch)
    answers = [*documents[-1:], *documents[:-1]]
    joined: list[Encoded] = []
    for (prompt, _), (_, answer) in zip(documents, answers, strict=True):
        tokens, trained = (*prompt.tokens, *answer.tokens), (*prompt.trained, *answer.trained)
        joined.append(Encoded(tokens=tokens[:num_positions], trained=trained[:num_positions]))
    return on_device(flat_batch(each_alone(joined), batch.sample_ids), batch.input_ids.device)


def _documents(batch: Batch) -> list[tuple[Encoded, Encoded]]:
    """(Prompt, answer) of each sample."""
    tokens = batch.input_ids[0].tolist()
    is_label = [False] * len(tokens)
    for position in batch.label_positions.tolist():
        is_label[position + 1] = True
    ends = batch.boundaries.tolist()
    found: list[tuple[Encoded, Encoded]] = []
    for start, stop in pairwise(ends):
        if batch.sample_ids:
            first = is_label.index(True, start, stop)
            found.append(
                (_part(tokens, is_label, start, first), _part(tokens, is_label, first, stop))
            )
    return found


def _part(tokens: list[int], trained: list[bool], start: int, stop: int) -> Encoded:
    return Encoded(tokens=tuple(tokens[start:stop]), trained=tuple(trained[start:stop]))
