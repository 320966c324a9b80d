"""What a teacher finds most likely at every label <-> folders that are made once.

Shapes: L labels, K tokens of each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.core.batch import Batch, TopTokens

_KEY_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """The arrays of one folder, mapped."""

    keys: Sequence[bytes]
    """Of each document: see `document_keys`."""
    ends: Sequence[int]
    """Labels up to and including each document."""
    ids: NDArray[Any]
    """int32 [L, K]"""
    log_probabilities: NDArray[Any]
    """float32 [L, K + 1], or [L, K] where K is the whole vocabulary."""
    num_vocabulary: int


class KeptTeacher:
    """A teacher of which the most likely tokens are known, at the labels it was asked about."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._shards = [_opened(folder) for folder in folders]
        self._places: dict[bytes, tuple[_Shard, int, int]] = {}
        for shard in self._shards:
            spans = itertools.pairwise([0, *shard.ends])
            for key, (start, stop) in zip(shard.keys, spans, strict=True):
                self._places[key] = (shard, start, stop)

    @property
    def num_labels(self) -> int:
        """At which something is known."""
        return sum(len(shard.ids) for shard in self._shards)

    @property
    def num_bytes(self) -> int:
        """Of what is known, on disk."""
        return sum(shard.ids.nbytes + shard.log_probabilities.nbytes for shard in self._shards)

    def top_tokens(self, batch: Batch) -> TopTokens:
        """See `TopPolicy`."""
        first = self._shards[0]
        ids, values = [first.ids[:0]], [first.log_probabilities[:0]]
        for key in document_keys(batch):
            assert key in self._places, "the teacher was asked about every document"
            shard, start, stop = self._places[key]
            ids.append(shard.ids[start:stop])
            values.append(shard.log_probabilities[start:stop])
        device = batch.labels.device
        return TopTokens(
            ids=torch.from_numpy(np.concatenate(ids)).long().to(device),
            log_probabilities=torch.from_numpy(np.concatenate(values)).to(device),
            num_vocabulary=first.num_vocabulary,
        )

    def negative_log_likelihood(self, batch: Batch) -> Tensor:
        """Is not known: a label need not be among the most likely tokens."""
        raise AssertionError("only a teacher's most likely tokens are kept")

    def logits(self, batch: Batch) -> Tensor:
        """Are not known."""
        raise AssertionError("only a teacher's most likely tokens are kept")


def keep(folder: Path, batches: Iterable[Batch], ask: Callable[[Batch], TopTokens]) -> None:
    """Fills a folder with what `ask` says of each batch."""
    keys, ends, num_vocabulary, top_k = list[bytes](), [0], 0, 0
    with (folder / "ids.bin").open("wb") as ids, (folder / "values.bin").open("wb") as values:
        for batch in batches:
            found = ask(batch)
            ids.write(found.ids.cpu().numpy().astype("<i4").tobytes())
            values.write(found.log_probabilities.cpu().numpy().astype("<f4").tobytes())
            num_vocabulary, top_k = found.num_vocabulary, found.ids.shape[-1]
            keys += document_keys(batch)
            _, counts = batch.label_documents.cpu().unique_consecutive(return_counts=True)
            ends += [ends[-1] + total for total in counts.cumsum(0).tolist()]
    (folder / "keys.bin").write_bytes(b"".join(keys))
    np.array(ends[1:], dtype="<i8").tofile(folder / "ends.bin")
    details = {"top_k": top_k, "num_vocabulary": num_vocabulary}
    (folder / "details.json").write_text(json.dumps(details), encoding="utf-8")


def document_keys(batch: Batch) -> Iterator[bytes]:
    """Of each document with labels: a hash of its tokens and of which of them are trained."""
    tokens = batch.input_ids[0].cpu().numpy().astype("<i8")
    positions = batch.label_positions.cpu().numpy()
    starts = batch.boundaries.cpu().numpy()
    cuts = np.searchsorted(positions, starts).tolist()
    for (start, stop), (first, last) in zip(
        itertools.pairwise(starts.tolist()), itertools.pairwise(cuts), strict=True
    ):
        if first < last:
            labels = (positions[first:last] - start).astype("<i8")
            content = tokens[start:stop].tobytes() + b"labels" + labels.tobytes()
            yield hashlib.blake2b(content, digest_size=_KEY_BYTES).digest()


def _opened(folder: Path) -> _Shard:
    details = json.loads((folder / "details.json").read_text(encoding="utf-8"))
    keys = (folder / "keys.bin").read_bytes()
    ids = np.memmap(folder / "ids.bin", dtype="<i4", mode="r").reshape(-1, details["top_k"])
    values = np.memmap(folder / "values.bin", dtype="<f4", mode="r")
    return _Shard(
        keys=[keys[at : at + _KEY_BYTES] for at in range(0, len(keys), _KEY_BYTES)],
        ends=np.fromfile(folder / "ends.bin", dtype="<i8").tolist(),
        ids=ids,
        log_probabilities=values.reshape(len(ids), -1),
        num_vocabulary=details["num_vocabulary"],
    )
