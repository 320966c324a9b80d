"""Answers -> what each reward says of them, and the weighted sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.core.problems import RunFailed
from framework.core.protocols.training import Reward
from framework.core.registries import component_name
from framework.core.rollouts import Answer, Scorer, ScorerBeside

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(kw_only=True)
class _Ahead:
    """What a reward is told before it is asked."""

    scorer: ScorerBeside
    answers: list[Answer] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """Of all but those that were sent last."""

    def begin(self, answers: Sequence[Answer]) -> None:
        """Sends more."""
        self.end()
        self.scorer.begin(answers)
        self.answers += answers

    def end(self) -> None:
        """Waits for all numbers."""
        if len(self.scores) < len(self.answers):
            self.scores += self.scorer.end()


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A recipe's rewards at work; remembers what they said last."""

    scorers: Mapping[str, Scorer]
    """Name -> the reward at work."""
    weights: Mapping[str, float]
    latest: dict[str, Sequence[float]] = field(default_factory=dict)
    """Name -> the numbers of the last answers, in their order."""
    ahead: dict[str, _Ahead] = field(default_factory=dict)
    """Name -> a reward that was told answers as they were drawn."""

    @staticmethod
    def start(rewards: Sequence[Reward], device: str) -> Scoring:
        """Every reward of a recipe at work.

        Raises:
            UserError: one of them can't work here.
        """
        named = dict(zip(reward_names(rewards), rewards, strict=True))
        return Scoring(
            scorers={name: reward.start(device) for name, reward in named.items()},
            weights={name: reward.weight for name, reward in named.items()},
        )

    def tell(self, answers: Sequence[Answer]) -> None:
        """Those rewards that compute outside of this process begin with answers that are there,
        while more are drawn."""
        for name, scorer in self.scorers.items():
            if isinstance(scorer, ScorerBeside):
                self.ahead.setdefault(name, _Ahead(scorer=scorer)).begin(answers)

    def score(self, name: str, answers: Sequence[Answer]) -> list[float]:
        """What one reward says of each answer.

        Raises:
            RunFailed: it says something else than one finite number for each.
        """
        scores = [float(one) for one in self._said(name, answers)]
        wrong = next((one for one in scores if not math.isfinite(one)), None)
        if len(scores) != len(answers) or wrong is not None:
            said = f"{len(scores)} numbers for {len(answers)} answers"
            raise RunFailed(
                f"the reward {name!r} gives {said if wrong is None else wrong}",
                hint="a reward is one finite number for each answer",
            )
        self.latest[name] = scores
        return scores

    def _said(self, name: str, answers: Sequence[Answer]) -> Sequence[float]:
        ahead = self.ahead.pop(name, None)
        if ahead is not None:
            ahead.end()
            if ahead.answers == list(answers):
                return ahead.scores
        return self.scorers[name](answers)

    def total(self, answers: Sequence[Answer]) -> list[float]:
        """The weighted sum of all rewards of each answer."""
        totals = [0.0] * len(answers)
        for name, weight in self.weights.items():
            scores = self.score(name, answers)
            totals = [one + weight * score for one, score in zip(totals, scores, strict=True)]
        return totals

    def means(self, accelerator: Accelerator, answers: Sequence[Answer]) -> dict[str, float]:
        """Of the answers that were scored last, over all processes: `reward` is the weighted sum,
        `reward_NAME` what one reward says, each with its standard deviation (`..._std`)."""
        from framework.distributed.collectives import sum_over_processes

        columns = {f"reward_{name}": list(scores) for name, scores in self.latest.items()}
        weighted = [
            sum(self.weights[name] * self.latest[name][at] for name in self.weights)
            for at in range(len(answers))
        ]
        columns = {"reward": weighted, **columns}
        columns["completion_length"] = [float(len(answer.tokens)) for answer in answers]
        columns["truncated_ratio"] = [float(answer.truncated) for answer in answers]
        sums = [(len(answers), sum(one), sum(x * x for x in one)) for one in columns.values()]
        reduced = iter(sum_over_processes(accelerator, [value for one in sums for value in one]))
        means: dict[str, float] = {}
        for name, (count, total, squares) in zip(
            columns, zip(reduced, reduced, reduced, strict=True), strict=True
        ):
            means[name] = mean = total / max(count, 1)
            if name.startswith("reward"):
                means[f"{name}_std"] = math.sqrt(max(squares / max(count, 1) - mean * mean, 0.0))
        return means


def reward_names(rewards: Sequence[Reward]) -> list[str]:
    """What each is called in metrics: its component's name, numbered where it stands twice."""
    names = [component_name(one) or type(one).__name__ for one in rewards]
    return [
        name if names.count(name) == 1 else f"{name}_{names[: at + 1].count(name)}"
        for at, name in enumerate(names)
    ]
