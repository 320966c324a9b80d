"""Tokenized samples <-> a folder of flat arrays that opens at once, whatever its size."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from framework.core.atomic import MANIFEST
from framework.core.batch import Encoded, Features
from framework.data.pack import Packs
from framework.data.prefixes import Documents

_ARRAYS = {
    "tokens": ("I", "<u4"),
    "trained": ("B", "<u1"),
    "document_ends": ("q", "<i8"),
    "feature_ends": ("q", "<i8"),
    "numbers": ("f", "<f4"),
    "number_ends": ("q", "<i8"),
    "texts": ("B", "<u1"),
    "text_ends": ("q", "<i8"),
    "datasets": ("i", "<i4"),
    "rows": ("q", "<i8"),
    "parts": ("i", "<i4"),
    "unit_ends": ("q", "<i8"),
    "units": ("q", "<i8"),
    "shared": ("i", "<i4"),
    "stage_ends": ("q", "<i8"),
}
"""File -> (type code of the writer's buffer, dtype of the reader). Ends are running totals: the
number of tokens up to and including a document, of documents, numbers and bytes of text up to and
including a sample, of samples up to and including a unit, of units up to and including a stage.
`shared` is beside `units`: tokens with which a sample begins as the one before it in its unit."""

_BUFFER_ITEMS = 1 << 16


class StoreWriter:
    """Appends samples, then their units, to the files of a store."""

    def __init__(self, folder: Path) -> None:
        self._streams = {name: (folder / f"{name}.bin").open("wb") for name in _ARRAYS}
        self._buffers = {name: array(code) for name, (code, _) in _ARRAYS.items()}
        self._folder = folder
        self._num_tokens = 0
        self._num_documents = 0
        self._num_numbers = 0
        self._num_bytes = 0
        self.lengths = array("q")
        """Tokens of each sample so far."""
        self.num_trained = array("q")
        """Trained tokens of each sample so far."""
        self.datasets = array("i")
        """Dataset of each sample so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What is buffered in a file left open would be written into whatever takes its place.
        for stream in self._streams.values():
            stream.close()

    def add(self, features: Features, *, dataset: int, row: int, part: int) -> None:
        """One sample: part `part` of what row `row` of dataset `dataset` became."""
        buffers = self._buffers
        before, num_trained = self._num_tokens, 0
        for document in features.documents:
            buffers["tokens"].extend(document.tokens)
            mask = bytes(document.trained)
            buffers["trained"].frombytes(mask)
            num_trained += mask.count(1)
            self._num_tokens += len(document.tokens)
            self._num_documents += 1
            buffers["document_ends"].append(self._num_tokens)
        self.lengths.append(self._num_tokens - before)
        self.num_trained.append(num_trained)
        self.datasets.append(dataset)
        buffers["feature_ends"].append(self._num_documents)
        buffers["numbers"].extend(features.numbers)
        self._num_numbers += len(features.numbers)
        buffers["number_ends"].append(self._num_numbers)
        if features.text:
            text = features.text.encode()
            buffers["texts"].frombytes(text)
            self._num_bytes += len(text)
        buffers["text_ends"].append(self._num_bytes)
        buffers["datasets"].append(dataset)
        buffers["rows"].append(row)
        buffers["parts"].append(part)
        if len(buffers["tokens"]) + len(buffers["texts"]) > _BUFFER_ITEMS:
            self._flush()

    def documents_of(self, samples: NDArray[np.int64]) -> Documents:
        """These samples, as far as each is one document, among all tokens so far."""
        self._flush()
        for stream in self._streams.values():
            stream.flush()
        store = Store(self._folder)
        documents = np.diff(store.arrays["feature_ends"], prepend=0)[samples]
        lengths = self.lengths_of(samples)
        return Documents(
            tokens=store.tokens,
            starts=store.sample_ends()[samples] - lengths,
            lengths=lengths,
            alone=documents > 1,
        )

    def lengths_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of these samples."""
        return np.frombuffer(self.lengths, dtype=np.int64)[samples]

    def write_units(self, stages: Sequence[Packs]) -> None:
        """The units (packs, or single samples) of each stage; all arrays are on disk then."""
        num_members = num_units = 0
        for packs in stages:
            self._flush()
            packs.members.astype("<i8").tofile(self._streams["units"])
            packs.shared.astype("<i4").tofile(self._streams["shared"])
            (packs.ends + num_members).astype("<i8").tofile(self._streams["unit_ends"])
            num_members += len(packs.members)
            num_units += len(packs)
            self._buffers["stage_ends"].append(num_units)
        self._flush()
        for stream in self._streams.values():
            stream.flush()

    def write_details(self, details: dict[str, Any]) -> None:
        """What else is to be known."""
        text = json.dumps(details, ensure_ascii=False)
        (self._folder / "details.json").write_text(text, encoding="utf-8")

    def _flush(self) -> None:
        for name, buffer in self._buffers.items():
            buffer.tofile(self._streams[name])
            self._buffers[name] = array(buffer.typecode)


@dataclass(frozen=True)
class Store:
    """A written store; its arrays are mapped, not read."""

    folder: Path

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every file of the store, mapped."""
        return {
            name: _map(self.folder / f"{name}.bin", dtype) for name, (_, dtype) in _ARRAYS.items()
        }

    @cached_property
    def details(self) -> dict[str, Any]:
        """What the writer was given to keep."""
        return json.loads((self.folder / "details.json").read_text(encoding="utf-8"))

    @cached_property
    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of every file, as the manifest has it."""
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        return {name: one["sha256"] for name, one in manifest["files"].items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is trained: the same arrays have the same one, whatever code made them."""
        hashes = [self.file_hashes[f"{name}.bin"] for name in _ARRAYS]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:32]

    @property
    def num_samples(self) -> int:
        """Samples, over all units."""
        return len(self.arrays["feature_ends"])

    @property
    def num_units(self) -> int:
        """Packs, or samples where nothing is packed."""
        return len(self.arrays["unit_ends"])

    @property
    def num_tokens(self) -> int:
        """Tokens, over all samples."""
        return len(self.arrays["tokens"])

    @cached_property
    def stage_ends(self) -> tuple[int, ...]:
        """Number of units up to and including each stage of the run."""
        return tuple(self.arrays["stage_ends"].tolist())

    def computed_lengths(self) -> NDArray[np.int64]:
        """Beside `units`: tokens that a sample doesn't share with the one before it in its unit."""
        lengths = np.diff(self.sample_ends(), prepend=0)[self.arrays["units"]]
        return lengths - self.arrays["shared"]

    def computed_length(self, unit: int) -> int:
        """The sum of `computed_lengths` over the samples of a unit."""
        start, stop = _span(self.arrays["unit_ends"], unit)
        samples = self.arrays["units"][start:stop]
        token_ends, document_ends = self.arrays["document_ends"], self.arrays["feature_ends"]
        ends = token_ends[document_ends[samples] - 1]
        starts = np.where(samples > 0, token_ends[document_ends[samples - 1] - 1], 0)
        return int((ends - starts).sum()) - int(self.arrays["shared"][start:stop].sum())

    def unit(self, index: int) -> NDArray[np.int64]:
        """The samples of a unit."""
        start, stop = _span(self.arrays["unit_ends"], index)
        return self.arrays["units"][start:stop]

    def features(self, sample: int) -> Features:
        """What a sample is made of."""
        first, last = _span(self.arrays["feature_ends"], sample)
        start, stop = _span(self.arrays["number_ends"], sample)
        begin, end = _span(self.arrays["text_ends"], sample)
        return Features(
            documents=tuple(self._document(index) for index in range(first, last)),
            numbers=tuple(self.arrays["numbers"][start:stop].tolist()),
            text=self.arrays["texts"][begin:end].tobytes().decode(),
        )

    def sample_id(self, sample: int) -> str:
        """See the function of this name."""
        dataset = self.details["datasets"][self.arrays["datasets"][sample]]["name"]
        return sample_id(dataset, self.arrays["rows"][sample], self.arrays["parts"][sample])

    def sample_of(self, identifier: str) -> int:
        """The sample of this id.

        Raises:
            KeyError: there is none.
        """
        dataset, _, place = identifier.rpartition(":")
        row, _, part = place.partition("/")
        samples = self.samples_of_row(self._dataset_numbers[dataset], int(row))
        found = samples[self.arrays["parts"][samples] == int(part or 0)]
        if len(found) != 1:
            raise KeyError(identifier)
        return int(found[0])

    def samples_of_row(self, dataset: int, row: int) -> NDArray[np.int64]:
        """What a row of the dataset with this number became, in order."""
        keys, order = self._rows
        first, last = np.searchsorted(keys, [_row_key(dataset, row), _row_key(dataset, row + 1)])
        return order[first:last]

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(Keys of dataset and row in ascending order, the sample of each)."""
        keys = _row_key(self.arrays["datasets"].astype(np.int64), self.arrays["rows"])
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def _dataset_numbers(self) -> dict[str, int]:
        return {one["name"]: number for number, one in enumerate(self.details["datasets"])}

    @property
    def tokens(self) -> NDArray[np.uint32]:
        """The tokens of all samples, one after the other."""
        return self.arrays["tokens"]

    @property
    def trained(self) -> NDArray[np.uint8]:
        """1 for each of `tokens` that is trained, else 0."""
        return self.arrays["trained"]

    def sample_ends(self) -> NDArray[np.int64]:
        """Number of tokens up to and including each sample."""
        return self.arrays["document_ends"][self.arrays["feature_ends"] - 1]

    def document_lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.arrays["document_ends"], prepend=0)

    def _document(self, index: int) -> Encoded:
        start, stop = _span(self.arrays["document_ends"], index)
        return Encoded(
            tokens=tuple(self.arrays["tokens"][start:stop].tolist()),
            trained=tuple(self.arrays["trained"][start:stop].astype(bool).tolist()),
        )


def sample_id(dataset: str, row: int, part: int) -> str:
    """`DATASET:ROW`, and `/PART` where a row became several samples."""
    return f"{dataset}:{row}" + (f"/{part}" if part else "")


def _row_key(dataset: Any, row: Any) -> Any:
    return (dataset << 40) + row


def _span(ends: NDArray[Any], index: int) -> tuple[int, int]:
    return int(ends[index - 1]) if index else 0, int(ends[index])


def _map(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype)  # an empty file can't be mapped
    # As a plain array: of what is indexed, numpy would make a mapped array each time.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
