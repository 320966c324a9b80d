"""Only the normalisation layers are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import (
    QUANTIZED_LAYERS,
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
class LNTuning:
    """Trains copies of the normalisation layers and nothing else (LN tuning, Zhao et al. 2023)."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LAYERS

    target_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Modules that are trained: names, or one pattern. None: every normalisation layer."""
    exclude_modules: str | tuple[str, ...] | None = setting(None, not_empty=True)
    """Names, or one pattern, of target modules that are left alone after all."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules trained in full beside them, such as `[embed_tokens, lm_head]`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Patterns that are none, and new tokens that would stay untrained."""
        yield from unreadable_patterns(self)
        yield from untrained_tokens(recipe, self.modules_to_save)

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with its normalisation layers trainable.

        Raises:
            UserError: a name or pattern fits no module of this model.
        """
        from peft import LNTuningConfig

        norms = [
            path for path, module in model.named_modules() if type(module).__name__.endswith("Norm")
        ]
        config = LNTuningConfig(
            task_type="CAUSAL_LM",
            target_modules=norms if self.target_modules is None else as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the trained layers in place of its own."""
        return merged(model)
