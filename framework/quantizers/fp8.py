"""A checkpoint of 8-bit floating-point numbers -> whole frozen weights under an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class FP8:
    """Frozen weights of an FP8 checkpoint, such as DeepSeek's, under an adapter; CPU and GPU.

    Products with FP8 weights have no gradient, so the weights are made whole while they are loaded
    and take as much memory as those of any other model.
    """

    freezes_weights: ClassVar[bool] = True
    layers: ClassVar[str] = ""

    @classmethod
    def from_checkpoint(cls, written: Mapping[str, Any]) -> FP8 | None:
        """Takes blocks of FP8 numbers, each with a scale."""
        return cls() if written.get("quant_method") == "fp8" else None

    def checkpoint_config(self) -> Any:
        """See `protocols.ReadsCheckpoint`."""
        from transformers import FineGrainedFP8Config

        return FineGrainedFP8Config(dequantize=True)

    def prepare(self, model: PreTrainedModel) -> None:
        """Nothing is to be done."""

    def holds(self, module: Module) -> bool:
        """None is left quantised."""
        return False

    def dequantized(self, module: Module) -> Tensor:
        """Never asked: no layer is held."""
        raise AssertionError("no layer is held")

    def compute_in(self, module: Module, dtype: dtype) -> None:
        """Never asked: no layer is held."""
        raise AssertionError("no layer is held")
