"""Rows that are never all read -> units, a buffer at a time, from any place on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framework.chat.backend import choose_backend
from framework.chat.lazy_chat import LazyChat
from framework.chat.tokens import BackendDisagrees
from framework.core.batch import Features
from framework.core.problems import Problem, UserError, warn
from framework.core.samples import NumberedSample, TooLong
from framework.data.encode import EncodedRow, RowEncoder
from framework.data.pack import LEAST_PACKS, Packs, pack, pack_apart, single
from framework.data.prefixes import Documents, pack_sharing
from framework.data.store import sample_id
from framework.data.units import HeldUnit
from framework.reading.rows import BadRow, read_samples, row_problem
from framework.reading.seeded import seeded
from framework.recipe.sharing import shares_prefixes

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe

_ROWS_OF_FINGERPRINT = 256


@dataclass(kw_only=True)
class Cursor:
    """How far one dataset is read, and what became of its rows."""

    row: int = 1
    """The next one."""
    num_passes: int = 0
    """That are done."""
    num_rows: int = 0
    num_samples: int = 0
    num_trained_tokens: int = 0
    num_skipped_rows: int = 0
    num_over_length_rows: int = 0
    num_untrained_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the stream, from which it goes on exactly as it would have."""

    buffer: int
    """Number of the buffer that is being dealt out; 0 before the first."""
    cursors: Mapping[str, Mapping[str, int]]
    """Where that buffer's reading began, by dataset."""
    unit: int
    """Units of it that are dealt out."""

    def as_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)


class Stream:
    """The recipe's training data as an endless sequence of units.

    A buffer of rows is read, shuffled, packed and dealt out before the next one is read, so memory
    grows with the buffer alone. It ends early when it holds all rows of all datasets. Of several
    datasets, the next row is always of the one that has given the fewest trained tokens for its
    weight. All of it is a function of seed and data: every process of a run makes the same
    sequence, and a position is enough to go on from.
    """

    def __init__(
        self, recipe: Recipe, datasets: Mapping[str, Dataset], lazy_chat: LazyChat
    ) -> None:
        assert recipe.data.streaming is not None
        self._recipe = recipe
        self._datasets = datasets
        self._lazy_chat = lazy_chat
        self._num_rows = recipe.data.streaming.buffer_rows
        self._shares = {name: one.weight or 1.0 for name, one in datasets.items()}
        self._cursors = {name: Cursor() for name in datasets}
        self._readers: dict[str, Iterator[NumberedSample | BadRow]] = {}
        self._ahead: dict[str, NumberedSample | BadRow | None] = {}
        """The next row of each reader; None at the end of a pass."""
        self._start = self._snapshot()
        self._buffer = 0
        self._units: list[HeldUnit] = []
        self._unit = 0

    @property
    def cursors(self) -> Mapping[str, Cursor]:
        """What became of each dataset's rows so far, those of the buffer included."""
        return self._cursors

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the recipe's data, its tokenizer or the first rows do; reads no more."""
        digest = hashlib.sha256(self._lazy_chat.fingerprint.encode())
        for name, dataset in self._datasets.items():
            digest.update(f"{name} {dataset!r}".encode())
            for numbered in itertools.islice(dataset.source.rows(), _ROWS_OF_FINGERPRINT):
                digest.update(repr(numbered).encode())
        return digest.hexdigest()[:32]

    def position(self) -> Position:
        """Where the stream is now."""
        return Position(buffer=self._buffer, cursors=self._start, unit=self._unit)

    def go_to(self, position: Position) -> None:
        """Goes on from there; reads again the rows of one buffer."""
        self._cursors = {name: Cursor(**one) for name, one in position.cursors.items()}
        self._readers, self._ahead = {}, {}
        self._units, self._buffer, self._unit = [], position.buffer, position.unit
        self._start = self._snapshot()
        if position.buffer:
            self._units = self._filled(position.buffer)

    def take(self, count: int) -> Sequence[HeldUnit]:
        """The next `count` units.

        Raises:
            UserError: a row doesn't fit, with file and line, or nothing of the data can be used.
        """
        taken: list[HeldUnit] = []
        while len(taken) < count:
            if self._unit == len(self._units):
                self._start = self._snapshot()
                self._buffer += 1
                self._units, self._unit = self._filled(self._buffer), 0
            rest = self._units[self._unit : self._unit + count - len(taken)]
            self._unit += len(rest)
            taken += rest
        return taken

    def _snapshot(self) -> dict[str, dict[str, int]]:
        return {name: asdict(cursor) for name, cursor in self._cursors.items()}

    # ---- a buffer

    def _filled(self, number: int) -> list[HeldUnit]:
        """The units of buffer `number`, in the order in which they are dealt out."""
        ids: list[str] = []
        samples: list[Features] = []
        for _ in range(self._num_rows):
            if all(map(self._is_whole, self._cursors)):
                break
            name = self._next_dataset()
            encoded = self._encoded(name)
            for part, features in enumerate(encoded.features):
                ids.append(sample_id(name, encoded.row, part))
                samples.append(features)
        if not samples:
            return []
        packs = self._packed(ids, samples)
        units = [
            HeldUnit(
                sample_ids=[ids[at] for at in members],
                features=[samples[at] for at in members],
            )
            for members in np.split(packs.members, packs.ends[:-1])
        ]
        random = seeded(f"{self._recipe.trainer.seed}/{number}")
        return [units[at] for at in random.permutation(len(units))]

    def _is_whole(self, name: str) -> bool:
        """Whether the buffer holds all rows of the dataset, so that the next one is there twice."""
        cursor, start = self._cursors[name], self._start[name]
        num_passes, row = cursor.num_passes - start["num_passes"], cursor.row
        if self._ahead.get(name, ...) is None:
            num_passes, row = num_passes + 1, 1
        if cursor.num_rows == start["num_rows"]:
            return False
        return num_passes > 1 or (num_passes == 1 and row >= start["row"])

    def _packed(self, ids: Sequence[str], samples: Sequence[Features]) -> Packs:
        data = self._recipe.data
        if not data.packing:
            return single(len(samples))
        first = {one: at for at, one in reversed([*enumerate(ids)])}
        num_tokens = sum(one.num_tokens for one in samples)
        most = num_tokens // (data.max_length * LEAST_PACKS)

        def pack_group(group: NDArray[np.int64]) -> Packs:
            chosen = [samples[at] for at in group]
            if shares_prefixes(self._recipe):
                return pack_sharing(Documents.of(chosen), data.max_length)
            return pack([one.num_tokens for one in chosen], data.max_length)

        return pack_apart(np.array([first[one] for one in ids]), most, pack_group)

    def _next_dataset(self) -> str:
        """The one that has given the least for its weight."""
        return min(
            self._cursors,
            key=lambda name: self._cursors[name].num_trained_tokens / self._shares[name],
        )

    def _encoded(self, name: str) -> EncodedRow:
        """What becomes of the dataset's next row that fits its format."""
        cursor = self._cursors[name]
        while True:
            result = self._next_row(name)
            cursor.num_rows += 1
            cursor.row = result.row + 1
            if isinstance(result, BadRow):
                self._bad_row(name, result)
                continue
            encoded = self._encode(result)
            cursor.num_over_length_rows += encoded.over_length is not None
            cursor.num_untrained_rows += encoded.untrained
            if encoded.error is not None:
                self._bad_row(name, BadRow(row=encoded.row, error=encoded.error))
                continue
            cursor.num_samples += len(encoded.features)
            cursor.num_trained_tokens += sum(one.num_trained_tokens for one in encoded.features)
            if encoded.features:
                return encoded

    def _next_row(self, name: str) -> NumberedSample | BadRow:
        cursor = self._cursors[name]
        if name not in self._readers:
            self._begin(name, cursor.row)
        result = self._ahead[name]
        if result is None:
            self._refuse_useless(name)
            cursor.num_passes += 1
            cursor.row = 1
            self._begin(name, 1)
            result = self._ahead[name]
            assert result is not None, "a dataset of which a row was used has rows"
        self._ahead[name] = next(self._readers[name], None)
        return result

    def _begin(self, name: str, row: int) -> None:
        """Reads from there on."""
        self._readers[name] = self._rows(name, row)
        self._ahead[name] = next(self._readers[name], None)

    def _rows(self, name: str, start: int) -> Iterator[NumberedSample | BadRow]:
        return read_samples(self._datasets[name], name, self._recipe.data, start)

    def _refuse_useless(self, name: str) -> None:
        """A dataset of which nothing is ever trained would be read for ever."""
        cursor = self._cursors[name]
        if cursor.num_samples:
            return
        raise UserError(
            Problem(
                key="data.train",
                what=f"no row of {name} is left to use: {cursor.num_rows:,} rows, "
                f"{cursor.num_skipped_rows:,} skipped, {cursor.num_over_length_rows:,} over "
                f"length, {cursor.num_untrained_rows:,} with nothing to train",
                hint="`framework preview` shows rows as they would be trained",
            )
        )

    def _bad_row(self, name: str, bad: BadRow) -> None:
        if self._recipe.data.on_bad_row == "error" or isinstance(bad.error, TooLong):
            raise UserError(row_problem(self._datasets[name], bad))
        self._cursors[name].num_skipped_rows += 1

    # ---- encoding

    def _encode(self, sample: NumberedSample) -> EncodedRow:
        try:
            return self._encoder(sample)
        except BackendDisagrees as error:
            self._use_encoder(str(error))
            return self._encoder(sample)

    @cached_property
    def _encoder(self) -> RowEncoder:
        return self._use_encoder()

    def _use_encoder(self, difference: str = "") -> RowEncoder:
        backend = self._recipe.tokenizer.backend
        chosen = choose_backend(self._lazy_chat.chat, backend, difference)
        warn(chosen.warnings())
        self._encoder = RowEncoder.of(self._recipe, chosen.chat)
        return self._encoder
