"""Only the embeddings of some tokens are trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from framework.adapting.adapted import adapted, merged
from framework.adapting.targets import QUANTIZED_LAYERS, as_peft, unreadable_patterns
from framework.core.heads import head_of
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedModel

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainableTokens:
    """Trains the embeddings of some tokens and nothing else."""

    trains_all_weights: ClassVar[bool] = False
    trains_matrices: ClassVar[bool] = False
    quantized_layers: ClassVar[frozenset[str]] = QUANTIZED_LAYERS

    token_indices: tuple[int, ...] = setting(not_empty=True)
    """Ids of the tokens."""
    target_modules: str | tuple[str, ...] = setting(("embed_tokens",), not_empty=True)
    """Names of the embeddings, or one pattern. An output layer that is tied to them follows."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Patterns that are none, and ids that no token has."""
        yield from unreadable_patterns(self)
        if head_of(recipe) is not None:
            yield Problem(
                key="adapter",
                what="trainable_tokens trains embeddings alone, and this model has a new head",
                hint="write adapter: {type: lora, trainable_token_indices: [...]}",
            )
        if min(self.token_indices) < 0:
            yield Problem(
                key=".token_indices",
                what=f"tokens are counted from 0, is {min(self.token_indices)}",
                hint="write the ids that `framework preview` shows",
            )

    def apply(self, model: PreTrainedModel) -> Module:
        """The model with those rows trainable.

        Raises:
            UserError: a name or pattern fits no module, or there is no such token.
        """
        from peft import TrainableTokensConfig

        config = TrainableTokensConfig(
            task_type="CAUSAL_LM",
            token_indices=list(self.token_indices),
            target_modules=as_peft(self.target_modules),
        )
        return adapted(model, config, self)

    def merge(self, model: Module) -> PreTrainedModel:
        """The plain model with the trained rows in its embeddings."""
        return merged(model)
