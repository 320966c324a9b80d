"""A model that was trained to judge -> what it says of answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.protocols import models as model_kinds
from framework.core.rollouts import Scorer
from framework.core.settings import setting, slot

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """The one number that a sequence classification model gives to prompt and answer."""

    source: model_kinds.ModelSource = slot("model_sources", locator=True)
    """Where the model comes from, such as the `final` folder of a run that trained all weights,
    or `owner/name`. Its own tokenizer and chat template are used."""
    micro_batch_size: int = setting(8, at_least=1)
    """Answers that it reads at once."""
    mean: float = 0.0
    """Taken off its number, so that a usual answer gets about 0."""
    standard_deviation: float = setting(1.0, above=0)
    """What is left is divided by this."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """A model that is trained can't be its own judge."""
        if self.source == recipe.model.source:
            yield Problem(
                key=".source",
                what="is the model that is trained",
                hint="write the folder of a model that was trained with `trainer: {type: reward}`",
            )

    def needs_columns(self) -> Sequence[str]:
        """None."""
        return ()

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`.

        Raises:
            UserError: it is no model that gives one number.
        """
        from framework.online.judge import Judge

        try:
            folder = self.source.fetch()
        except UserError as error:  # which takes the only source that a recipe has for its own
            own = [replace(one, key="trainer.rewards: source") for one in error.problems]
            raise type(error)(own) from error
        return Judge(
            folder=folder,
            device=device,
            micro_batch_size=self.micro_batch_size,
            mean=self.mean,
            standard_deviation=self.standard_deviation,
        )
