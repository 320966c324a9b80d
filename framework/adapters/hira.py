"""A low-rank matrix multiplies frozen weights element by element."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import as_peft, unreadable_patterns, untrained_tokens
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class HiRA:
    """Trains a low-rank matrix that multiplies weights elementwise (HiRA, Huang et al. 2025)."""

    trains_all_weights: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = frozenset(
        {"bitsandbytes_4bit", "bitsandbytes_8bit"}
    )

    r: int = setting(32, at_least=1)
    """Rank of the factor."""
    hira_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout of the update's input."""
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
        from peft import HiraConfig

        config = HiraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            hira_dropout=self.hira_dropout,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
