"""All datasets -> stages whose shares change over the training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.core.mixing import Stage
from framework.core.problems import Problem, did_you_mean
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Point:
    """The weights at one point of the training."""

    at: float = setting(at_least=0, at_most=1)
    """Part of the training that is over: 0 its beginning, 1 its end."""
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> its share, as any number of at least 0; one that is not named has none."""


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Changes the shares over the training, from one point to the next in a straight line."""

    points: tuple[Point, ...] = setting(not_empty=True)
    """In their order; before the first and after the last the shares stay."""
    num_stages: int = setting(20, at_least=1)
    """Equal pieces of the training, each with the shares that are due in its middle, and shuffled
    in itself."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The points must be in order and name the datasets, and there must be one pass."""
        yield from self._check_points()
        yield from self._check_names(recipe)
        trainer = recipe.trainer
        if trainer.max_steps is not None:
            yield Problem(
                key="trainer.max_steps",
                what="a curriculum goes over the whole training, which its data alone makes long",
                hint="remove it; `epochs` of the datasets and `data.train[...].rows` make the "
                "training longer or shorter",
            )
        if trainer.num_train_epochs not in {None, 1.0}:
            yield Problem(
                key="trainer.num_train_epochs",
                what=f"a curriculum is one pass, not {trainer.num_train_epochs:g}",
                hint="write num_train_epochs: 1, and `epochs:` for each dataset, the most passes "
                "over it",
            )

    def stages(self, weights: Mapping[str, float]) -> Sequence[Stage]:
        """Equal stages; `weights` have no say, the points do."""
        number = self.num_stages
        return tuple(
            Stage(share=1 / number, weights=self._weights((at + 0.5) / number))
            for at in range(number)
        )

    def _weights(self, progress: float) -> Mapping[str, float]:
        before = [one for one in self.points if one.at <= progress][-1:] or self.points[:1]
        after = [one for one in self.points if one.at > progress][:1] or self.points[-1:]
        left, right = before[0], after[0]
        way = (progress - left.at) / (right.at - left.at) if right.at > left.at else 0.0
        first, second = _normalised(left.weights), _normalised(right.weights)
        return {
            name: (1 - way) * first.get(name, 0.0) + way * second.get(name, 0.0)
            for name in {**first, **second}
        }

    def _check_points(self) -> Iterable[Problem]:
        for index, point in enumerate(self.points):
            wrong = [name for name, weight in point.weights.items() if not weight >= 0]
            if wrong or not sum(point.weights.values()) > 0:
                yield Problem(
                    key=f".points[{index}].weights",
                    what="weights must be at least 0, and one of them above",
                    hint="write weights: {NAME: 1}",
                )
        for index, (one, following) in enumerate(itertools.pairwise(self.points), start=1):
            if following.at <= one.at:
                yield Problem(
                    key=f".points[{index}].at",
                    what=f"{following.at:g} does not come after {one.at:g}",
                    hint="write the points in the order of the training",
                )

    def _check_names(self, recipe: Recipe) -> Iterable[Problem]:
        datasets = recipe.data.train
        names = [one.name or f"train{at}" for at, one in enumerate(datasets)]
        for index, point in enumerate(self.points):
            for name in point.weights:
                if name not in names:
                    yield Problem(
                        key=f".points[{index}].weights.{name}",
                        what=f"{name!r} is not the name of a dataset of data.train",
                        hint=did_you_mean(name, names),
                    )
        used = {name for point in self.points for name, weight in point.weights.items() if weight}
        for index, (name, dataset) in enumerate(zip(names, datasets, strict=True)):
            if name not in used:
                yield Problem(
                    key=f"data.train[{index}]",
                    what=f"{name!r} has no weight at any point of the curriculum",
                    hint=f"give it one, as in `weights: {{{name}: 1}}`, or remove the dataset",
                )
            if dataset.weight is not None:
                yield Problem(
                    key=f"data.train[{index}].weight",
                    what="the points of the curriculum say the weights",
                    hint="remove it",
                )


def _normalised(weights: Mapping[str, float]) -> Mapping[str, float]:
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}
