"""Trained keys and values stand before every document in every layer."""

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
class PrefixTuning:
    """Trains keys and values that every layer sees before every document (Li and Liang 2021).

    Documents are computed one by one, so packing saves no time.
    """

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LAYERS

    num_virtual_tokens: int = setting(20, at_least=1)
    """Length of the prefix; it comes on top of `data.max_length`."""
    init_weights: Literal["random", "zero"] = "random"
    """How keys and values start. Zeros still draw attention to themselves."""
    prefix_projection: bool = False
    """Let a network make keys and values of trained embeddings; only what it made is saved."""
    encoder_hidden_size: int | None = setting(None, at_least=1)
    """Width of that network; None: the model's."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from untrained_tokens(recipe, saves_modules=False)
        if recipe.model.checkpointing is not None:
            yield Problem(
                key="model.gradient_checkpointing",
                what="recomputes layers without the prefix that prefix_tuning gives them",
                hint="write `gradient_checkpointing: false`, or `adapter: {type: prompt_tuning}`",
            )
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            yield Problem(
                key=".encoder_hidden_size",
                what="is the width of a network that there is none of",
                hint="write `prefix_projection: true`, or leave it out",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model, frozen, with keys and values before every row."""
        from peft import PrefixTuningConfig

        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            init_weights="zero" if self.init_weights == "zero" else None,
            prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size,  # pyright: ignore[reportArgumentType]
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """
        Raises:
            UserError: always.
        """
        raise unmergeable("keys and values before the text are no part of the weights")
