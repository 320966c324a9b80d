"""What kinds of component that read, choose and prepare rows must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from framework.core.batch import Features
from framework.core.cleaning import Finding
from framework.core.mixing import Stage
from framework.core.over_length import Shortened
from framework.core.problems import Problem
from framework.core.samples import NumberedSample, Row, Sample

if TYPE_CHECKING:
    from framework.core.recognition import Recognition


@runtime_checkable
class Local(Protocol):
    """A data source that reads files of this machine, so that `framework check` can look."""

    path: str


class DataSource(Protocol):
    """Where rows come from."""

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(row number as its file counts it, from 1; row), from number `start` on.

        A row that can't be read has a `Problem`, with file and line, in its place. What comes
        before `start` is passed over without being read where the file allows it.

        Raises:
            UserError: nothing can be read from some place on, or the file is missing or empty, or
                not one of its rows can be read.
        """
        ...

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number, for messages; line 0 where lines mean nothing."""
        ...

    def fingerprint(self) -> str:
        """Changes when the content changes: a hash of the bytes, or a pinned revision."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A data source that knows how many rows it has before it reads them."""

    def count_rows(self) -> int | None:
        """How many rows it has at most, for a progress bar; None when it can't tell. Takes far less
        time than reading them, and raises nothing: reading says what is wrong."""
        ...


@runtime_checkable
class Filed(Protocol):
    """A data source all of whose rows are in files of this machine."""

    def files(self) -> Sequence[Path]:
        """Those files, in order.

        Raises:
            UserError: there are none.
        """
        ...


class Formatter(Protocol):
    """A row of one shape -> a sample. Pure, and knows no tokenizer."""

    produces: ClassVar[type[Sample]]

    def __call__(self, row: Row) -> Sample:
        """
        Raises:
            RowError: the row does not fit, with what it should hold.
        """
        ...


@runtime_checkable
class Recognisable(Protocol):
    """A format that `format: auto` can find; works with every setting at its default."""

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """The columns that it would read, and what each holds; empty if the row is not its own."""
        ...


@runtime_checkable
class Deciding(Protocol):
    """A format that is chosen by the first row; all others are read by the same."""

    def decide(self, row: Row) -> Recognition:
        """The format to read every row with.

        Raises:
            RowError: several formats fit, or none.
        """
        ...


class Cleaner(Protocol):
    """Finds what should not be trained on: one pass over the samples of a part, in order."""

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """What looks at each sample of one pass; it may remember those before.

        Args:
            held_out: reads the samples of `data.eval` and `data.test`, for whoever compares.
        """
        ...


@runtime_checkable
class ComparesRows(Protocol):
    """A cleaner that compares each row with those before: no pass over a share of the rows does."""

    compares_rows: ClassVar[bool]


class PassAhead(Protocol):
    """One pass of a cleaner that reads ahead."""

    def __call__(
        self, samples: Iterator[NumberedSample]
    ) -> Iterator[tuple[NumberedSample, Finding | None]]:
        """Every sample in its order with what was found in it; called once for each dataset.

        Args:
            samples: may be read ahead of what is yielded, as far as memory doesn't grow with them.
        """
        ...

    def tally(self) -> Mapping[str, int]:
        """Numbers of its own for the report, beside those of its findings."""
        ...


@runtime_checkable
class CleanerAhead(Protocol):
    """A cleaner that waits for others, such as a model that is asked about many samples at once."""

    def start_ahead(self, held_out: Callable[[], Iterator[NumberedSample]]) -> PassAhead:
        """What looks at the samples of one pass; see `Cleaner.start`."""
        ...


@runtime_checkable
class Tallied(Protocol):
    """A data source with numbers of its own for the report."""

    def tally(self) -> Mapping[str, int]:
        """They are read when all of its rows have been."""
        ...


class OverLength(Protocol):
    """What becomes of a sample that is longer than `data.max_length`."""

    def __call__(
        self,
        sample: Sample,
        features: Features,
        max_length: int,
        encode: Callable[[Sample], Sequence[Features]],
    ) -> Shortened:
        """What is trained in its place.

        Args:
            sample: what `features` were made of; it may have become others besides.
            max_length: in tokens, over all documents.
            encode: what the trainer makes of another sample, whatever its length.

        Raises:
            TooLong: the recipe allows nothing in its place.
        """
        ...


class Mixture(Protocol):
    """How datasets are mixed over the run."""

    def stages(self, weights: Mapping[str, float]) -> Sequence[Stage]:
        """The stages of the run, from the share that each dataset, by name, has of the whole."""
        ...


class TokenizerBackend(Protocol):
    """A program that tokenizes just as the `tokenizers` library does."""

    def load(self, tokenizer_json: str) -> Callable[[str], Sequence[int]]:
        """Text -> ids, special tokens recognised and none added.

        Raises:
            ValueError: this backend can't run the tokenizer; says why.
        """
        ...


@runtime_checkable
class BackendChoice(Protocol):
    """Stands for several tokenizer backends, of which the first that agrees is used."""

    def choices(self) -> Iterator[TokenizerBackend]:
        """Those that are there, the fastest first."""
        ...
