"""Encoded samples and the recipe's mixture -> which samples each stage of the run trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framework.core.mixing import Stage
from framework.core.problems import Problem, UserError
from framework.core.protocols.data import Mixture
from framework.reading.seeded import seeded

Samples = NDArray[np.int64]
"""Indices of samples."""

_ROUNDING = 1e-9
"""Part of an amount that is taken for nothing: shares are sums of floating-point numbers."""
_MOST_PASSED_OVER = 1000
"""Samples among which one is looked for that fills the rest of a stage."""


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One dataset, as it goes into the mixture."""

    name: str
    weight: float | None
    """None when the recipe gives none."""
    epochs: float
    """With weights, the most passes over it; without, their number."""
    costs: NDArray[np.int64]
    """Trained tokens, or 1, of each of its samples."""
    samples: Samples
    """Its samples."""

    @property
    def pass_cost(self) -> int:
        """Of all its samples once."""
        return int(self.costs.sum())

    @property
    def most(self) -> float:
        """What may be taken of it."""
        return self.epochs * self.pass_cost


@dataclass(frozen=True, kw_only=True)
class Realised:
    """What one dataset has become in the mixture."""

    name: str
    asked: float | None
    """Its share of the whole by the recipe; None when that says nothing about shares."""
    realised: float
    """Its share of the whole."""
    num_samples: int
    """With those that stand several times."""
    num_unused_samples: int
    """Samples that are in no stage."""
    passes: float
    """How often it is gone over."""


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """The stages of one epoch."""

    stages: Sequence[Samples]
    """The samples of each; one may stand in several, or several times in one."""
    datasets: Sequence[Realised]
    shares: Sequence[Mapping[str, float]]
    """The share that each dataset has of each stage."""

    def details(self, unit: Literal["trained_tokens", "rows"]) -> dict[str, Any]:
        """For the report."""
        return {
            "unit": unit,
            "datasets": [asdict(one) for one in self.datasets],
            "stages": [
                {"num_samples": len(samples), "shares": shares}
                for samples, shares in zip(self.stages, self.shares, strict=True)
            ],
        }


def mix(ingredients: Sequence[Ingredient], mixture: Mixture | None) -> Mixed:
    """The largest epoch that has the asked shares and no dataset more often than it allows.

    Each dataset is gone over in an order of its own, a new one for every pass; stages take what
    comes next in it. The result depends on the ingredients and the mixture alone. Without a mixture
    there is one stage with every sample once.

    Raises:
        UserError: a dataset that has a share has no sample, or the epoch has none.
    """
    asked = any(one.weight is not None for one in ingredients)
    amounts = [one.weight if asked and one.weight else one.most for one in ingredients]
    whole = sum(amounts)
    given = {
        one.name: amount / whole
        for one, amount in zip(ingredients, amounts, strict=True)
        if amount > 0
    }
    stages = mixture.stages(given) if mixture else (Stage(share=1.0, weights=given),)
    shares = {
        one.name: sum(stage.share * stage.weights.get(one.name, 0.0) for stage in stages)
        for one in ingredients
    }
    _refuse_empty([one for one in ingredients if shares[one.name] > 0])
    total = min(one.most / shares[one.name] for one in ingredients if shares[one.name] > 0)
    drawn = [_draw(one, stages, total) for one in ingredients]
    own_shares = any(abs(shares[name] - share) > _ROUNDING for name, share in given.items())
    return _mixed(ingredients, drawn, shares if asked or own_shares else None)


def _refuse_empty(ingredients: Sequence[Ingredient]) -> None:
    empty = [one.name for one in ingredients if not one.pass_cost]
    if empty:
        raise UserError(
            Problem(
                key="data.train",
                what=f"{', '.join(map(repr, empty))} has a share of the mixture, and no row of it "
                "is left to train",
                hint="remove the dataset, or see with `framework preview` where its rows went",
            )
        )


def _draw(one: Ingredient, stages: Sequence[Stage], total: float) -> list[Samples]:
    """What each stage takes of a dataset; `total` is the cost of all stages over all datasets."""
    wanted = np.cumsum([total * stage.share * stage.weights.get(one.name, 0.0) for stage in stages])
    if wanted[-1] <= 0:
        return [np.empty(0, dtype=np.int64) for _ in stages]
    num_passes = wanted[-1] / one.pass_cost
    if len(stages) == 1 and abs(num_passes - 1) < _ROUNDING:
        return [one.samples]
    number = int(np.ceil(num_passes * (1 - _ROUNDING)))
    rest = np.concatenate([_order(one, at) for at in range(number)])
    taken: list[Samples] = []
    spent = 0
    for amount in wanted * (1 + _ROUNDING):
        places = _fitting(one.costs[rest], amount - spent, len(one.samples))
        taken.append(one.samples[rest[places]])
        spent += int(one.costs[rest[places]].sum())
        rest = np.delete(rest, places)
    return taken


def _fitting(costs: NDArray[np.int64], room: float, pass_size: int) -> Samples:
    """Places of the first samples that fit into `room`, and of some behind them that still do.

    A long sample that doesn't fit waits for the next stage, so that stages are filled evenly. None
    is taken that stands in a later pass than one that waits.
    """
    totals = np.cumsum(costs)
    count = int(np.searchsorted(totals, room, side="right"))
    room -= int(totals[count - 1]) if count else 0
    behind: list[int] = []
    num_later_passes = (len(costs) - count - 1) // pass_size
    end = min(count + _MOST_PASSED_OVER, len(costs) - num_later_passes * pass_size)
    for place, cost in enumerate(costs[count:end].tolist(), start=count):
        if cost <= room:
            behind.append(place)
            room -= cost
    return np.concatenate([np.arange(count), np.asarray(behind, dtype=np.int64)])


def _order(one: Ingredient, number: int) -> Samples:
    """The order of pass `number`, as positions among the dataset's samples."""
    return seeded(f"{one.name}/{number}").permutation(len(one.samples))


def _mixed(
    ingredients: Sequence[Ingredient],
    drawn: Sequence[Sequence[Samples]],
    asked: Mapping[str, float] | None,
) -> Mixed:
    stages: list[Samples] = []
    shares: list[dict[str, float]] = []
    costs = [_costs_of(one, parts) for one, parts in zip(ingredients, drawn, strict=True)]
    for number, parts in enumerate(zip(*drawn, strict=True)):
        samples = np.sort(np.concatenate(parts))
        if len(samples):
            stages.append(samples)
            cost = {one.name: of[number] for one, of in zip(ingredients, costs, strict=True)}
            shares.append({name: part / sum(cost.values()) for name, part in cost.items()})
    whole = sum(map(sum, costs))
    if not whole:
        raise UserError(
            Problem(
                key="data.train",
                what="the asked shares and `epochs` leave no sample to train",
                hint="write larger `epochs`, or add rows",
            )
        )
    datasets = [
        Realised(
            name=one.name,
            asked=None if asked is None else asked[one.name],
            realised=sum(of) / whole,
            num_samples=sum(map(len, parts)),
            num_unused_samples=len(one.samples) - len(np.unique(np.concatenate(parts))),
            passes=sum(of) / max(one.pass_cost, 1),
        )
        for one, parts, of in zip(ingredients, drawn, costs, strict=True)
    ]
    return Mixed(stages=stages, datasets=datasets, shares=shares)


def _costs_of(one: Ingredient, parts: Sequence[Samples]) -> list[int]:
    places = (np.searchsorted(one.samples, part) for part in parts)
    return [int(one.costs[at].sum()) for at in places]
