"""A few layers, drawn anew every so many steps, are trained beside the embeddings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.core.problems import Problem, UserError
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class LISA:
    """Trains embeddings and output layer, and a few layers drawn anew every so many steps (Pan et
    al. 2024, arXiv 2403.17919).

    The other layers have no gradients, are not decayed and don't move. An optimizer keeps what it
    knows of a layer until the layer is drawn again.
    """

    trains_all_weights: ClassVar[bool] = True
    changes_trained_parameters: ClassVar[bool] = True

    num_layers: int = setting(2, at_least=1)
    """Layers that are trained at a time."""
    interval_steps: int = setting(20, at_least=1)
    """Optimizer steps after which others are drawn."""

    def apply(self, model: PreTrainedModel) -> Module:
        """The model itself, every parameter trainable.

        Raises:
            UserError: there are no more layers than are trained at a time.
        """
        from framework.models.layers import layers_of

        available = len(layers_of(model, "adapter").modules)
        if self.num_layers >= available:
            raise UserError(
                Problem(
                    key="adapter.num_layers",
                    what=f"is {self.num_layers}, the model has {available} layers: none would ever "
                    "be frozen",
                    hint=f"write a number below {available}, or `adapter: full`",
                )
            )
        return model.requires_grad_(True)

    def merge(self, model: Module) -> PreTrainedModel:
        """The model itself."""
        from transformers import PreTrainedModel

        assert isinstance(model, PreTrainedModel), type(model).__name__
        return model

    def announced(self, model: Module) -> Iterator[str]:
        """How much is trained at a time."""
        from framework.models.layers import layers_of

        layers = layers_of(model, "adapter").modules
        inside = sum(one.numel() for layer in layers for one in layer.parameters())
        total = sum(one.numel() for one in model.parameters())
        at_a_time = total - inside + inside * self.num_layers // len(layers)
        yield (
            f"lisa: {self.num_layers} of {len(layers)} layers at a time, drawn every "
            f"{self.interval_steps} steps, and what is outside of layers: about {at_a_time:,} of "
            f"{total:,} parameters ({at_a_time / total:.1%})"
        )

    def before_step(self, model: Module, step: int, num_steps: int, seed: int) -> None:
        """Freezes all layers but those that are drawn for this step."""
        from framework.models.layers import layers_of

        layers = layers_of(model, "adapter").modules
        chosen = self.drawn(len(layers), step, seed)
        for number, layer in enumerate(layers):
            layer.requires_grad_(number in chosen)

    def after_step(self, model: Module, step: int, num_steps: int) -> None:
        """Nothing."""

    def drawn(self, num_layers: int, step: int, seed: int) -> frozenset[int]:
        """Numbers of the layers that are trained in a step."""
        generator = random.Random(f"lisa {seed} {step // self.interval_steps}")  # noqa: S311
        return frozenset(generator.sample(range(num_layers), self.num_layers))
