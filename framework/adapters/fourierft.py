"""A few frequencies of the weights' change are trained."""

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
class FourierFT:
    """Trains the update's coefficients at random frequencies (FourierFT, Gao et al. 2024)."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    n_frequency: int = setting(1000, at_least=1)
    """Number of coefficients per layer, at most that of its weights."""
    scaling: float = setting(150.0, above=0)
    """The update is scaled by it: 100 to 150 for language models."""
    random_loc_seed: int = setting(777, at_least=0)
    """Seed of the frequencies."""
    target_modules: str | tuple[str, ...] = setting("all-linear", not_empty=True)
    """Modules that are adapted: names, one pattern, or `all-linear` for every linear layer but the
    output layer."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that are left alone after all."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside the adapter, such as `[embed_tokens, lm_head]`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Patterns that are none, and new tokens that would stay untrained."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, self.modules_to_save)

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with the adapter, whose coefficients start at random: small, but not zero.

        Raises:
            UserError: a name or pattern fits no module, or the sizes don't fit this model.
        """
        from peft import FourierFTConfig

        config = FourierFTConfig(
            task_type="CAUSAL_LM",
            n_frequency=self.n_frequency,
            scaling=self.scaling,
            random_loc_seed=self.random_loc_seed,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
