"""Block-circulant matrices are trained beside frozen weights."""

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
class C3A:
    """Trains a block-circulant update, computed by Fourier transforms (C3A, Chen et al. 2024)."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    block_size: int = setting(32, at_least=1)
    """Size of the blocks; must divide the layers' inputs and outputs. Larger: fewer numbers."""
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
        from peft import C3AConfig

        config = C3AConfig(
            task_type="CAUSAL_LM",
            block_size=self.block_size,
            init_weights=True,
            target_modules=as_peft(self.target_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
