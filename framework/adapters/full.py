"""All weights are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Full:
    """Trains all of the model's weights."""

    trains_all_weights: ClassVar[bool] = True
    quantized_layers: ClassVar[frozenset[str]] = frozenset({"fake_quantized"})

    def apply(self, model: PreTrainedModel) -> Module:
        """The model itself, every parameter trainable."""
        return model.requires_grad_(True)

    def merge(self, model: Module) -> PreTrainedModel:
        """The model itself."""
        from transformers import PreTrainedModel

        assert isinstance(model, PreTrainedModel), type(model).__name__
        return model
