"""Weights are rotated by trained orthogonal blocks."""

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
class OFT:
    """Trains orthogonal blocks that rotate each layer's input (OFT, Qiu et al. 2023)."""

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    oft_block_size: int = setting(32, at_least=2)
    """Size of the blocks; must divide the layers' inputs."""
    block_share: bool = False
    """One block for all of a layer's input."""
    coft: bool = False
    """Keep the rotation near none (constrained OFT)."""
    eps: float = setting(6e-5, above=0)
    """How near, with `coft`."""
    module_dropout: float = setting(0.0, at_least=0, below=1)
    """Share of the blocks that don't rotate in a step."""
    use_cayley_neumann: bool = True
    """Five terms of a series in place of an inverse: quicker, orthogonal but for rounding."""
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
        """The model with the adapter, which changes nothing at first.

        Raises:
            UserError: a name or pattern fits no module, or the sizes don't fit this model.
        """
        from peft import OFTConfig

        config = OFTConfig(
            task_type="CAUSAL_LM",
            oft_block_size=self.oft_block_size,
            block_share=self.block_share,
            coft=self.coft,
            eps=self.eps,
            module_dropout=self.module_dropout,
            use_cayley_neumann=self.use_cayley_neumann,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
