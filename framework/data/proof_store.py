"""Prepared arrays -> the rules that they break, checked all at once and whatever made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framework.data.store import Store
from framework.proofs.findings import Finding

_CHUNK_TOKENS = 1 << 19
_CHUNK_UNITS = 1 << 14
"""So many are looked at together: memory doesn't grow with the data."""


@dataclass(kw_only=True)
class ArrayNumbers:
    """What is counted over all arrays."""

    num_documents: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_trained_runs: int = 0
    """Stretches of trained tokens."""
    num_open_runs: int = 0
    """Those of them that end in no token that ends an answer."""


@dataclass(frozen=True, kw_only=True)
class StoreProof:
    """A prepared store and what its arrays must be."""

    store: Store
    ends: frozenset[int]
    """Tokens that may end an answer."""
    num_vocabulary: int
    """Token ids are below."""
    max_length: int
    packing: bool

    num_open: int
    """Stretches of trained tokens that are known to end in no end token, such as cut answers."""
    datasets: Sequence[Mapping[str, Any]]
    """What the report says of each dataset."""
    numbers: ArrayNumbers = field(default_factory=ArrayNumbers)
    """Filled while the rules are checked."""
    only_prompts: bool = False
    """Nothing of the documents is trained, all of it asks."""

    def findings(self) -> Iterator[Finding]:
        """Every rule that the arrays break."""
        wrong = self._misfit()
        if wrong:
            yield Finding(rule="arrays", detail=wrong)
            return
        yield from self._documents()
        yield from self._units()
        numbers = self.numbers
        if numbers.num_open_runs != self.num_open:
            yield Finding(
                rule="stop",
                detail=f"{numbers.num_open_runs} trained stretches end in no stop token, "
                f"{self.num_open} are known to",
            )
        for name in ("num_tokens", "num_trained_tokens"):
            counted, reported = getattr(numbers, name), sum(one[name] for one in self.datasets)
            if counted != reported:
                detail = f"{name} is {reported} in the report, {counted} in the arrays"
                yield Finding(rule="counts", detail=detail)

    def _misfit(self) -> str:
        """How the arrays don't fit each other; empty where they do."""
        length = {name: len(array) for name, array in self.store.arrays.items()}
        ends = {name: self._last(f"{name}_ends") for name in ("document", "feature", "unit")}
        if not length["tokens"] == length["trained"] == ends["document"]:
            return (
                f"{length['tokens']} tokens, a mask of {length['trained']}, documents that end at "
                f"{ends['document']}"
            )
        if length["document_ends"] != ends["feature"]:
            return f"{length['document_ends']} documents, {ends['feature']} in samples"
        if not length["datasets"] == length["rows"] == length["parts"] == length["feature_ends"]:
            return "not every sample has a dataset, a row and a part"
        for name in ("number", "text"):
            if length[f"{name}_ends"] != length["feature_ends"]:
                return f"not every sample has its {name}s"
            if length[f"{name}s"] != self._last(f"{name}_ends"):
                return f"{length[f'{name}s']} of all {name}s, {self._last(f'{name}_ends')} expected"
        if length["units"] != ends["unit"] or self._last("stage_ends") != length["unit_ends"]:
            return "the packs hold another number of samples than they list"
        if length["shared"] != length["units"]:
            return "not every sample of a pack says what it shares"
        return ""

    def _last(self, name: str) -> int:
        array = self.store.arrays[name]
        return int(array[-1]) if len(array) else 0

    # ---- documents

    def _documents(self) -> Iterator[Finding]:
        ends = self.store.arrays["document_ends"]
        begin = first = 0
        while begin < len(ends):
            after = int(np.searchsorted(ends, first + _CHUNK_TOKENS, side="right"))
            stops = np.array(ends[begin : max(after, begin + 1)])
            lengths = np.diff(stops, prepend=first)
            if (lengths <= 0).any() or stops[-1] > ends[-1]:
                place = begin + int(np.argmax(lengths <= 0))
                detail = f"document {place} or one beside it ends where it can't"
                yield Finding(rule="arrays", detail=detail)
                return
            yield from self._chunk(begin, first, lengths)
            begin, first = begin + len(stops), int(stops[-1])

    def _chunk(self, begin: int, first: int, lengths: NDArray[np.int64]) -> Iterator[Finding]:
        """Documents `begin` and following, whose tokens start at `first`."""
        count = int(lengths.sum())
        # Read, not mapped: mapped pages would stay in memory.
        tokens = _read(self.store.folder / "tokens.bin", "<u4", first, count)
        trained = _read(self.store.folder / "trained.bin", "<u1", first, count)
        starts = np.cumsum(lengths) - lengths
        faults = {
            "first_token": ("trains its first token", trained[starts] != 0),
            "arrays": (
                "has token ids that the tokenizer lacks",
                np.maximum.reduceat(tokens, starts) >= self.num_vocabulary,
            ),
            "mask_length": (
                "has a mask of other numbers than 0 and 1",
                np.maximum.reduceat(trained, starts) > 1,
            ),
            "split_document": (
                "is longer than data.max_length",
                lengths > self.max_length,
            ),
        }
        num_trained = np.add.reduceat(trained, starts, dtype=np.int64)
        if self.only_prompts:
            faults["leak"] = ("trains a part of its prompt", num_trained > 0)
        else:
            faults["zero_trained"] = ("trains nothing", num_trained == 0)
        for rule, (what, broken) in faults.items():
            if broken.any():
                place = begin + int(np.argmax(broken))
                detail = f"{self._sample_id(place)} {what}"
                if broken.sum() > 1:
                    detail += f", as do {int(broken.sum()) - 1} others"
                yield Finding(rule=rule, detail=detail)
        # No first token is trained, so that no stretch goes on into the next document.
        following = np.append(trained[1:], 0)
        run_ends = tokens[(trained == 1) & (following == 0)]
        numbers = self.numbers
        numbers.num_documents += len(lengths)
        numbers.num_tokens += count
        numbers.num_trained_tokens += int(np.count_nonzero(trained))
        numbers.num_trained_runs += len(run_ends)
        numbers.num_open_runs += int((~np.isin(run_ends, list(self.ends))).sum())

    def _sample_id(self, document: int) -> str:
        """The sample of a document, as `DATASET:ROW`."""
        arrays = self.store.arrays
        sample = int(np.searchsorted(arrays["feature_ends"], document, side="right"))
        return f"{self.datasets[arrays['datasets'][sample]]['name']}:{arrays['rows'][sample]}"

    # ---- packs

    def _units(self) -> Iterator[Finding]:
        arrays = self.store.arrays
        members = arrays["units"]
        num_samples = self.store.num_samples
        if len(members) and not 0 <= int(members.min()) <= int(members.max()) < num_samples:
            yield Finding(rule="arrays", detail="a pack holds a sample that is not there")
            return
        sizes = np.diff(arrays["unit_ends"], prepend=0)
        if (sizes <= 0).any():
            yield Finding(rule="arrays", detail=f"pack {int(np.argmax(sizes <= 0))} is empty")
            return
        if not self.packing or not len(members):
            return
        yield from self._shared()
        for begin in range(0, len(sizes), _CHUNK_UNITS):
            some = sizes[begin : begin + _CHUNK_UNITS]
            first = int(arrays["unit_ends"][begin] - some[0])
            last = first + int(some.sum())
            lengths = self._lengths(members[first:last]) - arrays["shared"][first:last]
            filled = np.add.reduceat(lengths, np.cumsum(some) - some)
            if (filled > self.max_length).any():
                place = int(np.argmax(filled))
                yield Finding(
                    rule="split_document",
                    detail=f"pack {begin + place} has {int(filled[place])} tokens",
                )
                return

    def _shared(self) -> Iterator[Finding]:
        """Every sample begins as the one before it in its pack does, as far as it says so."""
        arrays = self.store.arrays
        members, shared = arrays["units"], np.array(arrays["shared"], dtype=np.int64)
        firsts = np.append(0, arrays["unit_ends"][:-1])
        if (shared[firsts] != 0).any():
            yield Finding(rule="split_document", detail="the first of a pack shares its beginning")
            return
        places = np.flatnonzero(shared)
        shortest = np.minimum(self._lengths(members[places]), self._lengths(members[places - 1]))
        if (shared < 0).any() or (shared[places] > shortest).any():
            yield Finding(rule="split_document", detail="a sample shares more than it has")
            return
        tokens = self.store.tokens
        starts = self.store.sample_ends()[members] - self._lengths(members)
        while len(places):
            count = max(1, int(np.searchsorted(np.cumsum(shared[places]), _CHUNK_TOKENS)))
            some, places = places[:count], places[count:]
            sizes = shared[some]
            offsets = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            one, other = (tokens[np.repeat(starts[at], sizes) + offsets] for at in (some, some - 1))
            if (one != other).any():
                place = int(np.repeat(some, sizes)[np.argmax(one != other)])
                document = int(arrays["feature_ends"][members[place]]) - 1
                detail = (
                    f"{self._sample_id(document)} doesn't begin as the one before it in its pack"
                )
                yield Finding(rule="split_document", detail=detail)
                return

    def _lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of these samples."""
        feature_ends, document_ends = (
            self.store.arrays["feature_ends"],
            self.store.arrays["document_ends"],
        )
        last = document_ends[feature_ends[samples] - 1]
        before = np.where(samples > 0, feature_ends[samples - 1], 0)
        return last - np.where(before > 0, document_ends[before - 1], 0)


def _read(path: Path, dtype: str, first: int, count: int) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    return np.fromfile(path, dtype=dtype, count=count, offset=first * size)
