"""Linear layers -> 8 bits a weight, by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


_WITHOUT_ROUNDING: WeakKeyDictionary[Module, RemovableHandle] = WeakKeyDictionary()
"""Layers whose products are computed with unrounded inputs."""


@dataclass(frozen=True, kw_only=True)
class Bitsandbytes8bit:
    """Frozen weights in 8 bits under an adapter (LLM.int8(), Dettmers et al. 2022); CPU and GPU.

    Each row of weights has a scale. On a GPU inputs are rounded to 8 bits as well, but for columns
    with outliers; on a CPU they are not. The output layer and the embeddings stay as they are.
    """

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = "bitsandbytes_8bit"
    indivisible: ClassVar[bool] = True

    threshold: float = setting(6.0, at_least=0)
    """Input columns with a larger number are multiplied in 16 bits on a GPU; 0: none are. Which
    ones they are depends on the whole row, so documents of one pack round each other's inputs."""
    skip_modules: tuple[str, ...] = ()
    """Names of further linear layers that stay as they are."""

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> Bitsandbytes8bit | None:
        """Takes what bitsandbytes quantised to 8 bits."""
        return cls() if written.get("load_in_8bit") else None

    def checkpoint_config(self) -> Any:
        """See `protocols.ReadsCheckpoint`."""
        return None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """bitsandbytes must be installed."""
        return missing_extra("bitsandbytes", "bitsandbytes", key="model.quantization")

    def config(self, compute_dtype: str, unquantized: Sequence[str]) -> Any:
        """See `protocols.Quantizes`."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True,
            llm_int8_threshold=self.threshold,
            llm_int8_skip_modules=[*unquantized, *self.skip_modules],
        )

    def bits_per_weight(self, written: Mapping[str, Any]) -> float:
        """See `protocols.Packing`; each row of weights has one scale."""
        return 8.0

    def prepare(self, model: PreTrainedModel) -> None:
        """Computes evaluation as training is computed.

        On a CPU a layer rounds its inputs in evaluation mode only (bitsandbytes 0.50): what is
        evaluated, and what an adapter is compared with, would not be what is trained.
        """
        for module in model.modules():
            if self.holds(module):
                module.register_forward_pre_hook(_compute_as_in_training)

    def holds(self, module: Module) -> bool:
        """See `protocols.Quantizer`."""
        from bitsandbytes.nn.modules import Linear8bitLt

        return isinstance(module, Linear8bitLt)

    def dequantized(self, module: Module) -> Tensor:
        """See `protocols.Quantizer`."""
        from bitsandbytes.functional import int8_vectorwise_dequant
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt

        assert isinstance(module, Linear8bitLt), type(module).__name__
        weight = module.weight
        assert isinstance(weight, Int8Params), type(weight).__name__
        # The first forward pass moves the scales from the weight to the layer.
        scales = module.state.SCB if weight.SCB is None else weight.SCB
        assert scales is not None
        return int8_vectorwise_dequant(weight.data, scales).float()

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """Nothing: integers and scales are multiplied in the dtype of the inputs."""

    def round_activations(self, model: Module, on: bool) -> None:
        """See `protocols.RoundsActivations`."""
        for module in model.modules():
            if not self.holds(module):
                continue
            if on and module in _WITHOUT_ROUNDING:
                _WITHOUT_ROUNDING.pop(module).remove()
            elif not on and module not in _WITHOUT_ROUNDING:
                hook = module.register_forward_hook(self._exact)
                _WITHOUT_ROUNDING[module] = hook

    def _exact(self, module: Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        from torch.nn.functional import linear

        weight = self.dequantized(module).to(inputs[0].dtype)
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        return linear(inputs[0], weight, bias).to(output.dtype)


def _compute_as_in_training(module: Module, inputs: object) -> None:
    """Without dropout of its own, it does nothing else in training mode."""
    module.training = True
