"""Activations are rescaled by trained vectors."""

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
class IA3:
    """Trains one vector per layer that rescales its activations ((IA)3, Liu et al. 2022)."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    target_modules: tuple[str, ...] | None = setting(None, not_empty=True)
    """Names of the layers that are rescaled. None: keys, values and the feed-forward layer's
    second half, by the names that the architecture has for them."""
    feedforward_modules: tuple[str, ...] | None = None
    """Those of them whose input is rescaled, instead of their output. None: as the paper does; must
    be given with `target_modules`."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that are left alone after all."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside the vectors, such as `[embed_tokens, lm_head]`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Settings that contradict each other or the rest of the recipe."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, self.modules_to_save)
        targets, inputs = self.target_modules, self.feedforward_modules
        if (targets is None) != (inputs is None):
            yield Problem(
                key=".feedforward_modules" if inputs is None else ".target_modules",
                what="is missing: both are given, or none",
                hint="write `target_modules: [k_proj, v_proj, down_proj]` and "
                "`feedforward_modules: [down_proj]`",
            )
        for name in set(inputs or ()) - set(targets or ()) if targets else ():
            yield Problem(
                key=".feedforward_modules",
                what=f"{name!r} is not one of target_modules",
                hint=f"add it there: `target_modules: [{', '.join((*(targets or ()), name))}]`",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with vectors of ones, so that nothing changes at first.

        Raises:
            UserError: a name fits no module of this model, or peft doesn't know the architecture.
        """
        from peft import IA3Config

        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=as_peft(self.target_modules),
            feedforward_modules=as_peft(self.feedforward_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with its weights rescaled."""
        return merged(model)
