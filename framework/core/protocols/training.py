"""What trainers and everything around the training loop must offer, and what some of them may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from framework.core.batch import Batch, Encoded, Features, Loss, Policy
from framework.core.evaluation import Evaluation
from framework.core.protocols.models import ModelSource
from framework.core.rollouts import Learner, Sampling, Scorer
from framework.core.samples import (
    Classified,
    Completion,
    Conversation,
    Document,
    Preference,
    PromptOnly,
    Sample,
    Scored,
    StepwiseSupervision,
    Tokenized,
    UnpairedPreference,
)

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from framework.online.bench import Workbench


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

    def prompt_only(self, sample: PromptOnly) -> Encoded:
        """The prompt as a server makes it, none of it trained."""
        ...

    def tokenized(self, sample: Tokenized) -> Encoded:
        """The ids and the mask as they are; the first token is never trained."""
        ...

    def preference(self, sample: Preference) -> tuple[Encoded, Encoded]:
        """(Prompt and chosen continuation, prompt and rejected one); the answers are trained."""
        ...

    def unpaired_preference(self, sample: UnpairedPreference) -> Encoded:
        """Prompt and continuation, of which the answers are trained."""
        ...

    def read_at_end(self, sample: Classified | Scored | Preference) -> tuple[Encoded, ...]:
        """The content, or chosen and rejected answer with their prompt; of each, the last token is
        chosen."""
        ...

    def steps(self, sample: StepwiseSupervision, separator: str) -> Encoded:
        """Prompt and steps, each with a separator after it, whose last token is chosen."""
        ...


class Trainer(Protocol):
    """What is learned from a sample."""

    consumes: ClassVar[tuple[type[Sample], ...]]
    packs: ClassVar[bool]
    """Whether documents of different samples may share a row."""

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The sample's documents; several entries when it becomes several samples."""
        ...

    def num_items(self, batch: Batch) -> float:
        """What the loss is the mean over, such as trained tokens or pairs; known before it is."""
        ...

    def loss(self, policy: Policy, reference: Policy | None, batch: Batch) -> Loss:
        """The batch's summed loss and what it was summed over."""
        ...


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The frozen model that a trainer compares the policy with."""

    source: ModelSource | None = None
    """None: the trained model as it is before training."""
    source_key: str = ""
    """Where the recipe names it, for messages."""
    precompute: bool = False
    """Asked about every sample once, before training; then it needs no memory."""
    top_k: int | None = None
    """With a source: only so many of its most likely tokens are kept, before training."""
    temperature: float = 1.0
    """Of those tokens' probabilities."""


@runtime_checkable
class PreparesBy(Protocol):
    """A trainer of whose settings only some decide what its `features` are; prepared data, and with
    them the order of samples, stay the same when others change. Without it, all do."""

    features_depend_on: ClassVar[tuple[str, ...]]
    """Names of those fields."""


@runtime_checkable
class Weighing(Protocol):
    """A trainer whose loss counts each sample by its `weight`."""

    weighs_samples: ClassVar[bool]


@runtime_checkable
class Noisy(Protocol):
    """A trainer that disturbs the input embeddings while it trains."""

    neftune_noise_alpha: float | None


@runtime_checkable
class Summarising(Protocol):
    """A trainer some of whose metrics are no means over items."""

    def summarised(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """What is reported of many batches together.

        Args:
            means: of the loss and of each sum in the metrics of `loss`.
        """
        ...


@runtime_checkable
class InCompany(Protocol):
    """A trainer that may learn from samples beside others of their micro-batch."""

    def depends_on_company(self) -> bool:
        """Whether a sample's loss depends on the others."""
        ...

    def lone_samples(self) -> str:
        """What becomes of one that is alone in its micro-batch; empty: nothing else."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A trainer whose `loss` is given a reference."""

    def compared_with(self) -> Comparison | None:
        """What is to be the reference; None where the settings need none."""
        ...


class Reward(Protocol):
    """How good an answer is."""

    @property
    def weight(self) -> float:
        """What its numbers are multiplied by before those of all rewards are added up."""
        ...

    def needs_columns(self) -> Sequence[str]:
        """Columns that every row must have."""
        ...

    def start(self, device: str) -> Scorer:
        """What scores answers, once for each process.

        Args:
            device: where a model may compute, such as `cuda:0`.

        Raises:
            UserError: it can't work here.
        """
        ...


@runtime_checkable
class Online(Protocol):
    """A trainer that learns from what the model itself answers.

    A batch is counted in answers: `global_batch_size` is a multiple of `num_generations`.
    """

    consumes: ClassVar[tuple[type[Sample], ...]]
    packs: ClassVar[bool]

    @property
    def rewards(self) -> tuple[Reward, ...]:
        """What judges the answers."""
        ...

    @property
    def num_generations(self) -> int:
        """Answers to each prompt."""
        ...

    @property
    def num_iterations(self) -> int:
        """Optimizer steps on each batch of answers."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        ...

    @property
    def num_shown(self) -> int:
        """Answers of each batch that `answers.jsonl` keeps."""
        ...

    def features(self, sample: Sample, chat: Chat) -> Sequence[Features]:
        """The prompt, and in `text` what rewards need."""
        ...

    def equip(self, model: Module) -> None:
        """Adds to the model what is trained beside it."""
        ...

    def learner(self, bench: Workbench) -> Learner:
        """The algorithm at work on a model."""
        ...


class OptimizerComponent(Protocol):
    """An update rule."""

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """The optimizer over parameter groups.

        Args:
            groups: each with `params`, `lr`, `weight_decay`, `name`, and `hidden`: whether they are
                all matrices inside the model's layers.
            learning_rate: the recipe's, which the groups' may differ from.
        """
        ...


@runtime_checkable
class Elementwise(Protocol):
    """An optimizer that steps each number by that number's own gradients alone: parts of a weight
    can be stepped apart, by PyTorch operations that know nothing of the whole."""

    steps_numbers_apart: ClassVar[bool]


@runtime_checkable
class AveragingWeights(Protocol):
    """An optimizer whose result is an average of the weights, not those that it trains."""

    def use_average(self, optimizer: Optimizer) -> None:
        """Puts the average in the weights' place; `optimizer` is what `build` made."""
        ...

    def use_trained(self, optimizer: Optimizer) -> None:
        """Puts the trained weights back, up to rounding."""
        ...


class Schedule(Protocol):
    """The learning rate over training."""

    def build(self, optimizer: Optimizer, warmup_steps: int, num_steps: int) -> LRScheduler:
        """The scheduler; steps are optimizer steps."""
        ...


class Tracker(Protocol):
    """Where metrics are shown; `metrics.jsonl` is always written beside it."""

    def start(
        self, run_name: str, output_dir: Path, settings: Mapping[str, Any], num_steps_done: int
    ) -> None:
        """Called once, on the main process.

        Args:
            num_steps_done: that the run goes on after; an earlier start may have logged later ones.
        """
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One logged step."""
        ...

    def finish(self, *, is_complete: bool) -> None:
        """Called once, also after a failure.

        Args:
            is_complete: the trained model is written; else the run failed, or has to go on.
        """
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


@runtime_checkable
class Selective(Protocol):
    """An evaluator that can't judge the answer to every sample."""

    def check_sample(self, sample: Sample) -> None:
        """
        Raises:
            RowError: it can't judge this one.
        """
        ...
