"""A checkpoint that GPTQ quantised -> frozen weights under an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from framework.core.problems import Problem
from framework.models.gptqmodel import is_gptqmodel_layer, never_whole
from framework.recipe.quantization import missing_packages

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class GPTQ:
    """Frozen weights that GPTQ quantised before, under LoRA; needs the package gptqmodel.

    Its settings stand in the model's own config.json. Nothing quantises to it here: that takes data
    to calibrate with.
    """

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = "gptq"
    skip_modules: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> GPTQ | None:
        """Takes what GPTQ quantised."""
        return cls() if written.get("quant_method") == "gptq" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """What reads such weights must be installed."""
        return missing_packages("gptqmodel", "optimum")

    def checkpoint_config(self) -> Any:
        """See `protocols.ReadsCheckpoint`."""
        return None

    def bits_per_weight(self, written: Mapping[str, Any]) -> float:
        """See `protocols.Packing`; each group has a scale of 16 bits and a zero."""
        bits, group = int(written.get("bits", 4)), int(written.get("group_size", 128))
        return bits + (16 + bits) / group if group > 0 else float(bits)

    def prepare(self, model: PreTrainedModel) -> None:
        """Nothing is to be done."""

    def holds(self, module: Module) -> bool:
        """See `protocols.Quantizer`."""
        return is_gptqmodel_layer(module)

    def dequantized(self, module: Module) -> Tensor:
        """
        Raises:
            UserError: always.
        """
        raise never_whole("GPTQ")

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """Nothing: products are of the dtype of the inputs."""
