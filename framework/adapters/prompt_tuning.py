"""Trained virtual tokens stand before every document."""

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
class PromptTuning:
    """Trains embeddings of virtual tokens that stand before every document (Lester et al. 2021).

    Documents are computed one by one, so packing saves no time.
    """

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LAYERS

    num_virtual_tokens: int = setting(20, at_least=1)
    """How many; they come on top of `data.max_length`."""
    prompt_tuning_init: Literal["random", "sample_vocab", "text"] = "random"
    """How they start: at random, as random tokens of the vocabulary, or as a text."""
    prompt_tuning_init_text: str | None = setting(None, not_empty=True)
    """That text; it is cut, or repeated, to the number of virtual tokens."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from untrained_tokens(recipe, saves_modules=False)
        if (self.prompt_tuning_init == "text") != (self.prompt_tuning_init_text is not None):
            yield Problem(
                key=".prompt_tuning_init_text",
                what=f"doesn't go with `prompt_tuning_init: {self.prompt_tuning_init}`",
                hint="write `prompt_tuning_init: text` and the text, or neither",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model, frozen, with virtual tokens before every row."""
        from peft import PromptTuningConfig

        starts_as_text = self.prompt_tuning_init == "text"
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=self.prompt_tuning_init.upper(),
            prompt_tuning_init_text=self.prompt_tuning_init_text,
            tokenizer_name_or_path=model.name_or_path if starts_as_text else None,
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """
        Raises:
            UserError: always.
        """
        raise unmergeable("virtual tokens are no part of the weights")
