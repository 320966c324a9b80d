"""Encoded documents -> one flat batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from framework.attention.forest import make_forest
from framework.core.batch import Batch, Encoded, Features, Shared


def flat_batch(samples: Sequence[Features], sample_ids: Sequence[str]) -> Batch:
    """The samples' documents laid end to end in one row; nothing is padded, nothing copied twice.

    A token is a label when it is trained; the position before it predicts it. The first token of a
    document has none before it and never is one, so no label crosses a boundary.

    Without samples the batch holds a token that is no label: its loss is zero, and still connected
    to the parameters, so that a process without work takes part in the collectives.
    """
    assert len(samples) == len(sample_ids), (len(samples), len(sample_ids))
    documents = [document for sample in samples for document in sample.documents]
    if not documents:
        documents = [Encoded(tokens=(0,), trained=(False,))]
    lengths = [len(document.tokens) for document in documents]
    assert min(lengths) > 0, "every document has tokens"
    assert all(len(d.trained) == n for d, n in zip(documents, lengths, strict=True))
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    sizes = torch.tensor(lengths)
    owners = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
    tokens = torch.tensor(list(chain.from_iterable(d.tokens for d in documents)))
    trained = torch.tensor(list(chain.from_iterable(d.trained for d in documents)))
    targets = trained.nonzero().flatten()
    assert not trained[starts[:-1].long()].any(), "a document's first token is never trained"
    counts = [0, *accumulate(len(sample.documents) for sample in samples)]
    numbers = list(chain.from_iterable(sample.numbers for sample in samples))
    return Batch(
        input_ids=tokens[None],
        position_ids=(torch.arange(len(tokens)) - starts[:-1].long()[owners])[None],
        boundaries=starts,
        max_document_length=max(lengths),
        label_positions=targets - 1,
        labels=tokens[targets],
        label_documents=owners[targets],
        sample_boundaries=torch.tensor(counts),
        numbers=torch.tensor(numbers, dtype=torch.float32),
        sample_ids=tuple(sample_ids),
        shared=_shared(tokens, starts.tolist()),
    )


def _shared(tokens: Tensor, boundaries: Sequence[int]) -> Shared | None:
    forest = make_forest(tokens.numpy(), boundaries)
    if forest is None:
        return None
    return Shared(
        segments=forest.segments,
        tokens=torch.from_numpy(forest.tokens),
        rows=torch.from_numpy(forest.rows),
    )


def with_tokens(batch: Batch, number: int) -> Batch:
    """The same batch with so many tokens at least: those that it lacks are a further document,
    which no sample holds."""
    lacking = number - batch.input_ids.numel()
    if lacking <= 0:
        return batch
    assert batch.shared is None, "common beginnings have more tokens than that"
    added = torch.zeros_like(batch.input_ids[:, :1]).expand(1, lacking)
    places = torch.arange(lacking, device=added.device)[None]
    return replace(
        batch,
        input_ids=torch.cat([batch.input_ids, added], 1),
        position_ids=torch.cat([batch.position_ids, places], 1),
        boundaries=torch.cat([batch.boundaries, batch.boundaries[-1:] + lacking]),
        max_document_length=max(batch.max_document_length, lacking),
    )


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """The same batch, its tensors on `device`."""
    shared = None if batch.shared is None else replace(batch.shared, **_moved(batch.shared, device))
    return replace(batch, **_moved(batch, device), shared=shared)


def _moved(holder: Batch | Shared, device: torch.device | str) -> dict[str, Any]:
    tensors = {name: value for name, value in vars(holder).items() if isinstance(value, Tensor)}
    return {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
