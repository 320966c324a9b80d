"""Prepared data -> a hash of what each row became, in a small file that finds a changed row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.core import atomic
from framework.data.store import Store
from framework.recipe.schema import Part

_HASH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class RowHashes:
    """The samples of a part of the data in the order in which they were prepared."""

    names: tuple[str, ...]
    """Of the datasets."""
    datasets: NDArray[np.int32]
    rows: NDArray[np.int64]
    parts: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    """Of each sample's tokens, mask, numbers and text."""

    @staticmethod
    def of(store: Store) -> RowHashes:
        """Reads all of the store's arrays once."""
        arrays = store.arrays
        names = tuple(one["name"] for one in store.details["datasets"])
        return RowHashes(
            names=names,
            datasets=np.array(arrays["datasets"]),
            rows=np.array(arrays["rows"]),
            parts=np.array(arrays["parts"]),
            hashes=_hashes(arrays, store.sample_ends()),
        )

    def columns(self, prefix: str) -> dict[str, NDArray[Any]]:
        """What a file keeps."""
        found = {f"{prefix}.names": np.array(self.names, dtype=np.str_)}
        for name in ("datasets", "rows", "parts", "hashes"):
            found[f"{prefix}.{name}"] = getattr(self, name)
        return found

    def by_row(self) -> dict[tuple[str, int, int], int]:
        """(dataset, row, part) -> hash."""
        numbers = self.datasets.tolist(), self.rows.tolist(), self.parts.tolist()
        keys = ((self.names[one], row, part) for one, row, part in zip(*numbers, strict=True))
        return dict(zip(keys, self.hashes.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class ChangedRows:
    """What of a dataset is no longer what it was."""

    dataset: str
    num_changed: int
    num_rows: int
    """Of the dataset, as it was."""
    first_row: int
    how: str
    """What became of that row: `changed`, `new` or `missing`."""


def changed_rows(old: RowHashes, new: RowHashes) -> list[ChangedRows]:
    """Where two preparations of the same datasets differ, dataset by dataset."""
    before, after = old.by_row(), new.by_row()
    found: list[ChangedRows] = []
    for name in dict.fromkeys((*old.names, *new.names)):
        keys = sorted(key for key in before.keys() | after.keys() if key[0] == name)
        changed = [key for key in keys if before.get(key) != after.get(key)]
        rows = sorted({row for _, row, _ in changed})
        if not changed:
            continue
        first = changed[0]
        how = "changed" if first in before and first in after else "new"
        found.append(
            ChangedRows(
                dataset=name,
                num_changed=len(rows),
                num_rows=len({key[1] for key in before if key[0] == name}),
                first_row=first[1],
                how="missing" if first not in after else how,
            )
        )
    return found


def write_row_hashes(path: Path, parts: Mapping[Part, Store]) -> None:
    """One file for the parts of the data, such as `train`."""
    columns = {
        name: column
        for part, store in parts.items()
        for name, column in RowHashes.of(store).columns(part).items()
    }

    def write(target: Path) -> None:
        with target.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **columns)

    atomic.write_with(path, write)


def read_row_hashes(path: Path, part: str) -> RowHashes | None:
    """Those of a part of the data; None where the file has none of it.

    Raises:
        OSError, ValueError: the file can't be read.
    """
    with np.load(path, allow_pickle=False) as found:
        if f"{part}.rows" not in found:
            return None
        return RowHashes(
            names=tuple(found[f"{part}.names"].tolist()),
            datasets=found[f"{part}.datasets"],
            rows=found[f"{part}.rows"],
            parts=found[f"{part}.parts"],
            hashes=found[f"{part}.hashes"],
        )


def _hashes(
    arrays: Mapping[str, NDArray[Any]], token_ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A document's end counts by the tokens that it has."""
    document_ends = np.ascontiguousarray(np.diff(arrays["document_ends"], prepend=0))
    columns: list[tuple[memoryview, Sequence[int]]] = []
    for name, ends in (
        ("tokens", token_ends),
        ("trained", token_ends),
        ("numbers", arrays["number_ends"]),
        ("texts", arrays["text_ends"]),
    ):
        columns.append(_bytes_and_ends(arrays[name], ends))
    columns.append(_bytes_and_ends(document_ends, arrays["feature_ends"]))
    found = bytearray()
    starts = [0] * len(columns)
    for sample in range(len(token_ends)):
        digest = hashlib.blake2b(digest_size=_HASH_BYTES)
        for at, (content, ends) in enumerate(columns):
            digest.update(content[starts[at] : ends[sample]])
            starts[at] = ends[sample]
        found += digest.digest()
    return np.frombuffer(bytes(found), dtype=np.uint64)


def _bytes_and_ends(
    array: NDArray[Any], ends: NDArray[np.int64]
) -> tuple[memoryview, Sequence[int]]:
    """The array's bytes, and where in them each sample ends."""
    content = np.asarray(array).view(np.uint8).data.cast("B")
    return content, (ends * array.itemsize).tolist()
