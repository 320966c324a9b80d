"""Weights are rotated by a butterfly of trained orthogonal blocks."""

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
from framework.core.problems import Problem, UserError
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class BOFT:
    """Trains orthogonal blocks in butterfly order (BOFT, Liu et al. 2024)."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LINEAR

    boft_block_size: int = setting(4, at_least=2)
    """Size of the blocks; must divide the layers' inputs."""
    boft_n_butterfly_factor: int = setting(1, at_least=1)
    """Number of butterfly steps; each doubles a rotation's reach. More than 1 needs a GPU."""
    boft_dropout: float = setting(0.0, at_least=0, below=1)
    """Share of the blocks that don't rotate in a step."""
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
        from peft import BOFTConfig

        self._refuse_steps_without_kernel()
        config = BOFTConfig(
            task_type="CAUSAL_LM",
            boft_block_size=self.boft_block_size,
            boft_n_butterfly_factor=self.boft_n_butterfly_factor,
            boft_dropout=self.boft_dropout,
            target_modules=as_peft(self.target_modules),
            exclude_modules=as_peft(self.exclude_modules),
            modules_to_save=as_peft(self.modules_to_save),
        )
        return adapted(model, config, self)

    def _refuse_steps_without_kernel(self) -> None:
        # peft would silently train one step instead.
        from peft.tuners.boft.layer import get_fbd_cuda

        if self.boft_n_butterfly_factor > 1 and get_fbd_cuda() is None:
            raise UserError(
                Problem(
                    key="adapter.boft_n_butterfly_factor",
                    what="more than 1 needs a GPU, and ninja, gcc and the CUDA toolkit to compile "
                    "a kernel",
                    hint="write `boft_n_butterfly_factor: 1`, or `adapter: oft`",
                )
            )

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the change folded into its weights."""
        return merged(model)
