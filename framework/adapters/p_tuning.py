"""Virtual tokens, made by a trained network, stand before every document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.adapting.adapted import adapted, unmergeable
from framework.adapting.targets import QUANTIZED_LAYERS, untrained_tokens
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class PTuning:
    """Trains a small network that makes the virtual tokens before every document (Liu et al. 2021).

    Documents are computed one by one, so packing saves no time.
    """

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LAYERS

    num_virtual_tokens: int = setting(20, at_least=1)
    """How many; they come on top of `data.max_length`."""
    encoder_reparameterization_type: Literal["mlp", "lstm"] = "mlp"
    """The network that makes them of trained embeddings."""
    encoder_hidden_size: int | None = setting(None, at_least=1)
    """Its width; None: the model's."""
    encoder_num_layers: int = setting(2, at_least=1)
    """Layers of an `lstm`; an `mlp` always has two."""
    encoder_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout between the layers of an `lstm`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from untrained_tokens(recipe, saves_modules=False)
        lstm = self.encoder_reparameterization_type == "lstm"
        for name, default in (("encoder_num_layers", 2), ("encoder_dropout", 0.0)):
            if not lstm and vars(self)[name] != default:
                yield Problem(
                    key=f".{name}",
                    what="is a setting of an `lstm`",
                    hint=f"write `encoder_reparameterization_type: lstm`, or leave {name} out",
                )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model, frozen, with virtual tokens before every row."""
        from peft import PromptEncoderConfig

        config = PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type=self.encoder_reparameterization_type.upper(),
            encoder_hidden_size=self.encoder_hidden_size,  # pyright: ignore[reportArgumentType]
            encoder_num_layers=self.encoder_num_layers,
            encoder_dropout=self.encoder_dropout,
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """
        Raises:
            UserError: always.
        """
        raise unmergeable("virtual tokens are no part of the weights")
