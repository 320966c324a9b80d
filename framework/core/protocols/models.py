"""What model sources, quantizers and adapters must offer, and what some of them may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from framework.core.batch import Batch

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.core.problems import Problem


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


@runtime_checkable
class OnHub(Protocol):
    """A source that may have a name on the Hub."""

    repo: str | None
    """None: it has none."""
    revision: str


@runtime_checkable
class Configured(Protocol):
    """A source whose configuration can be had without its weights and its tokenizer."""

    def config_problems(self) -> Iterable[Problem]:
        """What keeps it from being had; in the place of `check` where no more is needed."""
        ...

    def fetch_config(self) -> Path:
        """Local folder with at least config.json.

        Raises:
            UserError: it does not exist or can't be reached.
        """
        ...


class Quantizer(Protocol):
    """How the weights of linear layers are held in few bits, or trained to be."""

    freezes_weights: ClassVar[bool]
    """Whether weights that are held so can't be trained themselves."""
    layers: ClassVar[str]
    """What an adapter finds in the place of linear layers: a name of `OverQuantized`; empty where
    it finds linear layers."""

    def prepare(self, model: PreTrainedModel) -> None:
        """Makes the loaded model ready for training, in place."""
        ...

    def holds(self, module: Module) -> bool:
        """Whether it is a linear layer whose weight is quantised."""
        ...

    def dequantized(self, module: Module) -> Tensor:
        """float32 [out, in]: what the weight of a layer that it holds stands for."""
        ...

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """Lets a layer that it holds take inputs of another dtype. Bits stand for the same numbers
        then; a weight that is rounded in each pass is rounded in that dtype."""
        ...


@runtime_checkable
class RoundsActivations(Protocol):
    """A quantizer that also rounds what goes into a layer."""

    def round_activations(self, model: Module, on: bool) -> None:
        """Switches that off, to look at the weights alone, or on again."""
        ...


@runtime_checkable
class ReadsCheckpoint(Protocol):
    """A quantizer whose weights may have been quantised before, in the model's own files."""

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> Quantizer | None:
        """The quantizer that reads such files; None if they are not its own.

        Args:
            written: `quantization_config` of the model's config.json.
        """
        ...

    def checkpoint_config(self) -> Any:
        """What transformers is given as `quantization_config` with such files; None where they say
        everything."""
        ...


@runtime_checkable
class Indivisible(Protocol):
    """A quantizer whose weights are one piece each: no strategy can share them out."""

    indivisible: ClassVar[bool]


@runtime_checkable
class Quantizes(Protocol):
    """A quantizer that makes its weights of whole ones, while those are loaded."""

    def config(self, compute_dtype: str, unquantized: Sequence[str]) -> Any:
        """What transformers is given as `quantization_config`.

        Args:
            compute_dtype: dtype of matrix products, such as `bfloat16`.
            unquantized: names of the output layers, which stay as they are.
        """
        ...


@runtime_checkable
class Packing(Protocol):
    """A quantizer whose weights take fewer bits, so that memory can be planned."""

    skip_modules: tuple[str, ...]
    """Names of linear layers that stay whole, besides the output layer."""

    def bits_per_weight(self, written: Mapping[str, Any]) -> float:
        """With the scales that come with them.

        Args:
            written: `quantization_config` of the model's config.json; empty for whole weights.
        """
        ...


class Adapter(Protocol):
    """What is trained: all weights, or few in their place."""

    trains_all_weights: ClassVar[bool]
    """Whether the model's own weights change, rather than new ones beside them."""

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its trainable parameters chosen; frozen ones have no gradient."""
        ...

    def merge(self, model: Module) -> PreTrainedModel:
        """A plain model with the adapter's change folded into its weights."""
        ...


@runtime_checkable
class Prefixing(Protocol):
    """An adapter that puts tokens of its own before every document."""

    num_virtual_tokens: int


@runtime_checkable
class TellingShapes(Protocol):
    """An adapter that says of what shape its own parameters inside the model's layers are."""

    trains_matrices: ClassVar[bool]
    """Whether some are matrices; not so: vectors, or tensors of more dimensions, or none at all."""


@runtime_checkable
class TrainingModules(Protocol):
    """An adapter beside which whole modules may be trained."""

    modules_to_save: tuple[str, ...]


@runtime_checkable
class OverQuantized(Protocol):
    """An adapter that works over quantised layers."""

    quantized_layers: ClassVar[frozenset[str]]
    """Which ones: `bitsandbytes_4bit`, `bitsandbytes_8bit`, `torchao`, `gptq`, `awq`, or
    `fake_quantized`: linear layers that round their weight in each forward pass."""


@runtime_checkable
class OverWholeQuantized(Protocol):
    """An adapter that works over some of those layers only where each process holds them whole."""

    whole_quantized_layers: ClassVar[frozenset[str]]
    """Which ones, as in `OverQuantized`."""


@runtime_checkable
class Stepping(Protocol):
    """An adapter that does something at each optimizer step."""

    changes_trained_parameters: ClassVar[bool]
    """Whether steps differ in which parameters have a gradient. All that any step trains have
    `requires_grad` after `apply`."""

    def before_step(self, model: Module, step: int, num_steps: int, seed: int) -> None:
        """Before the forward passes of optimizer step `step` (from 0); a function of its arguments
        alone, so that a resumed run does the same."""
        ...

    def after_step(self, model: Module, step: int, num_steps: int) -> None:
        """After the weights changed, while gradients are still there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What an adapter may look at before it starts."""

    batches: Sequence[Batch]
    """The first samples of the training data, on the model's device; the same in every process."""
    quantizer: Quantizer | None
    """What holds the model's weights."""
    folder: Path
    """The model's files."""


@runtime_checkable
class LookingAround(Protocol):
    """An adapter whose start may depend on more than the weights."""

    def num_first_samples(self) -> int:
        """How many samples of the training data it looks at; 0 for none."""
        ...

    def apply_within(self, model: PreTrainedModel, around: Surroundings) -> Module:
        """See `Adapter.apply`."""
        ...


@runtime_checkable
class StartingPlain(Protocol):
    """An adapter whose start may take time, or data."""

    def starting_plain(self) -> Adapter:
        """The same, as large, with a start that takes neither."""
        ...


@runtime_checkable
class Saving(Protocol):
    """An adapter that is saved otherwise than it is trained."""

    def save(self, model: Module, folder: Path) -> None:
        """What plain peft loads on the model as it was before training."""
        ...


@runtime_checkable
class Loading(Protocol):
    """An adapter that plain peft doesn't load again as a whole."""

    how_to_load: ClassVar[str]
    """What its folder says of that, in Markdown."""

    def load(self, model: PreTrainedModel, folder: Path) -> Module:
        """What `save` wrote, on the model as it was before training."""
        ...


@runtime_checkable
class Announcing(Protocol):
    """An adapter that says more of what it trains than a number."""

    def announced(self, model: Module) -> Iterable[str]:
        """Lines for the log, about the model that `apply` returned."""
        ...


@runtime_checkable
class RatingParameters(Protocol):
    """An adapter some of whose parameters learn faster or slower than others."""

    def learning_rate_ratio(self, name: str) -> float:
        """What the rate of the trained parameter of that name (as `named_parameters` says it) is
        multiplied with; 1 changes nothing."""
        ...


@runtime_checkable
class Penalising(Protocol):
    """An adapter with a term of its own in the loss."""

    def penalty(self, model: Module) -> Tensor:
        """float32 []: what is added to the loss of every optimizer step, once."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An adapter that carries more than its parameters from step to step."""

    def state(self, model: Module) -> Mapping[str, Tensor]:
        """All of it, by name; the same in every process."""
        ...

    def restore(self, model: Module, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        ...


@runtime_checkable
class AltersWeights(Protocol):
    """An adapter that may change the model's own weights: switched off, it leaves another model
    than the one that training began with."""

    def alters_weights(self) -> bool:
        """Whether it does, with these settings."""
        ...


@runtime_checkable
class StartingFrom(Protocol):
    """An adapter that may start from trained ones."""

    def started_from(self) -> tuple[Path, ...]:
        """Their folders."""
        ...
