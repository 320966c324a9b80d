"""Random bases that all layers share are mixed by trained numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import (
    QUANTIZED_LINEAR,
    as_peft,
    unreadable_patterns,
    untrained_tokens,
)
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class RandLoRA:
    """Trains how random bases that all layers share are mixed (RandLoRA, Albert et al. 2025)."""

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    r: int = setting(32, at_least=1)
    """Rank of each basis; lower means more of them and more trained numbers."""
    randlora_alpha: int = setting(640, at_least=1)
    """The update is scaled by it; 20 times `r` is usual."""
    randlora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout of the update's input."""
    projection_prng_key: int = setting(0, at_least=0)
    """Seed of the bases."""
    save_projection: bool = True
    """Write the bases beside the trained numbers, so that nobody has to draw them again."""
    target_modules: str | tuple[str, ...] = setting("all-linear", not_empty=True)
    """Modules that are adapted: names, one pattern, or `all-linear` for every linear layer but the
    output layer."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside the adapter, such as `[embed_tokens, lm_head]`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Patterns that are none, and new tokens that would stay untrained."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, self.modules_to_save)

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with the adapter, which changes nothing at first.

        Raises:
            UserError: a name or pattern fits no module, or the sizes don't fit this model.
        """
        from peft import RandLoraConfig

        config = RandLoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            randlora_alpha=self.randlora_alpha,
            randlora_dropout=self.randlora_dropout,
            projection_prng_key=self.projection_prng_key,
            save_projection=self.save_projection,
            target_modules=as_peft(self.target_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
