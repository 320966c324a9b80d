"""What each kind of component must offer; structural, no base classes.

A component is a frozen dataclass whose fields are its YAML keys. Besides the methods below it may
have `check(self, recipe) -> Iterable[Problem]`: the constraints between its settings and the rest
of the recipe, found without torch and before any download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from framework.core.batch import Batch, Encoded, Features, Loss, Policy
from framework.core.cleaning import Finding
from framework.core.evaluation import Evaluation
from framework.core.mixing import Stage
from framework.core.over_length import Shortened
from framework.core.problems import Problem
from framework.core.samples import (
    Completion,
    Conversation,
    Document,
    NumberedSample,
    Row,
    Sample,
    Tokenized,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel

    from framework.core.recognition import Recognition
    from framework.recipe.schema import Recipe


@runtime_checkable
class Checked(Protocol):
    """A component with constraints on the recipe around it."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Every conflict. A problem's `key` is a dotted path of the recipe, or, with a leading
        dot, one of the component's own fields wherever the component stands."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A component that decides something by itself, and says so."""

    def notes(self, recipe: Recipe) -> Iterable[Problem]:
        """What it decided and why; keys as in `Checked.check`."""
        ...


class Located(Protocol):
    """A component that can be written as a plain string."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, Any] | None:
        """The component's fields if the string is its own, None if it is not."""
        ...


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


class ModelSource(Protocol):
    """Where weights and tokenizer come from."""

    def fetch(self) -> Path:
        """Local folder in Hugging Face layout; safe under concurrent processes.

        Raises:
            UserError: it does not exist, cannot be reached or is not what was pinned.
        """
        ...

    def fingerprint(self) -> str:
        """Names the content without fetching it, as exactly as the source allows."""
        ...


class Adapter(Protocol):
    """What is trained: all weights, or few in their place."""

    trains_all_weights: ClassVar[bool]

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its trainable parameters chosen; frozen ones have no gradient."""
        ...

    def merge(self, model: Module) -> PreTrainedModel:
        """A plain model with the adapter's change folded into its weights."""
        ...


class Chat(Protocol):
    """Samples -> token ids and masks, by the recipe's tokenizer, template and choices."""

    def conversation(self, sample: Conversation) -> Sequence[Encoded]:
        """One document, or one for each assistant turn where the recipe says so."""
        ...

    def completion(self, sample: Completion) -> Encoded:
        """Prompt not trained, completion and end-of-sequence token trained."""
        ...

    def document(self, sample: Document) -> Encoded:
        """Everything trained, end-of-sequence token included."""
        ...

    def tokenized(self, sample: Tokenized) -> Encoded:
        """The ids and the mask as they are; the first token is never trained."""
        ...


class Trainer(Protocol):
    """What is learned from a sample."""

    consumes: ClassVar[tuple[type[Sample], ...]]
    packs: ClassVar[bool]
    """Whether documents of different samples may share a row."""

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The sample's documents; several entries when it becomes several samples."""
        ...

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """The batch's summed loss and what it was summed over."""
        ...


class Strategy(Protocol):
    """How one model is spread over the processes."""

    def accelerator(self, mixed_precision: str) -> Accelerator:
        """Accelerate, set up for this strategy."""
        ...

    def save_state(
        self, accelerator: Accelerator, model: Module, optimizer: Optimizer, folder: Path
    ) -> None:
        """Trained weights and optimizer state into `folder`; called on the main process."""
        ...

    def load_state(
        self, accelerator: Accelerator, model: Module, optimizer: Optimizer, folder: Path
    ) -> None:
        """Puts back what `save_state` wrote."""
        ...


class OptimizerComponent(Protocol):
    """An update rule."""

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """The optimizer over parameter groups (`params`, `weight_decay`)."""
        ...


class Schedule(Protocol):
    """The learning rate over training."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """The scheduler; steps are optimizer steps."""
        ...


class Tracker(Protocol):
    """Where metrics are shown; `metrics.jsonl` is always written beside it."""

    def start(self, run_name: str, output_dir: Path, settings: Mapping[str, Any]) -> None:
        """Called once, on the main process."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One logged step."""
        ...

    def finish(self) -> None:
        """Called once, also after a failure."""
        ...


class Generator(Protocol):
    """The model answering, as evaluators use it."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[str]:
        """Greedy answer to each sample, asked without its last assistant turn."""
        ...


class Evaluator(Protocol):
    """A number for how well the model answers held-out samples."""

    num_rows: int
    """How many rows of `data.test` are asked."""
    max_new_tokens: int
    """Longest answer."""

    def evaluate(self, samples: Sequence[Sample], generate: Generator) -> Evaluation:
        """Asks, compares, counts."""
        ...
