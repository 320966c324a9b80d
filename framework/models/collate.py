"""Encoded documents -> one flat batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain

import torch

from framework.core.batch import Batch, Encoded


def flat_batch(documents: Sequence[Encoded], sample_ids: Sequence[str]) -> Batch:
    """The documents laid end to end in one row; nothing is padded and nothing is copied twice.

    A token is a label when it is trained; the position before it predicts it. The first token of a
    document has none before it and never is one, so no label crosses a boundary.
    """
    lengths = [len(document.tokens) for document in documents]
    assert lengths and min(lengths) > 0, "a batch holds at least one document, each with tokens"
    assert all(len(d.trained) == n for d, n in zip(documents, lengths, strict=True))
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    sizes = torch.tensor(lengths)
    owners = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
    tokens = torch.tensor(list(chain.from_iterable(d.tokens for d in documents)))
    trained = torch.tensor(list(chain.from_iterable(d.trained for d in documents)))
    targets = trained.nonzero().flatten()
    assert not trained[starts[:-1].long()].any(), "a document's first token is never trained"
    return Batch(
        input_ids=tokens[None],
        position_ids=(torch.arange(len(tokens)) - starts[:-1].long()[owners])[None],
        boundaries=starts,
        max_document_length=max(lengths),
        label_positions=targets - 1,
        labels=tokens[targets],
        label_documents=owners[targets],
        sample_ids=tuple(sample_ids),
    )


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """The same batch, its tensors on `device`."""
    return replace(
        batch,
        input_ids=batch.input_ids.to(device, non_blocking=True),
        position_ids=batch.position_ids.to(device, non_blocking=True),
        boundaries=batch.boundaries.to(device, non_blocking=True),
        label_positions=batch.label_positions.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        label_documents=batch.label_documents.to(device, non_blocking=True),
    )
