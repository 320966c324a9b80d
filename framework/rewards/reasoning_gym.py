"""An answer to a task of reasoning-gym -> what its verifier says."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.rollouts import Answer, Scorer

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """0 to 1 as the task's own verifier says; for rows of the data source of the same name."""

    tag: str | None = None
    """The answer stands in this tag, as in `<answer>...</answer>`; the last one counts, and without
    one the answer is none. None: the whole text is the answer."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there."""
        yield from missing_extra("reasoning_gym", "rewards", key=".type")

    def needs_columns(self) -> Sequence[str]:
        """What the data source writes of each row."""
        return ("task",)

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        return self._scores

    def _scores(self, answers: Sequence[Answer]) -> list[float]:
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> float:
        from reasoning_gym.utils import extract_answer

        said = answer.text.strip()
        if self.tag is not None:
            said = extract_answer(answer.text, tag_name=self.tag)
        return float(_verify(json.dumps(answer.prompt.columns["task"], sort_keys=True), said))


def _verify(row: str, said: str | None) -> float:
    made, entry = _made_again(row)
    return made.score_answer(answer=said, entry=entry)


@functools.lru_cache(maxsize=1024)
def _made_again(row: str) -> tuple[Any, Any]:
    """(the task's rows, this one of them) of what the data source wrote."""
    task = json.loads(row)
    made = _task(task["name"], task["num_rows"], task["seed"], json.dumps(task["settings"]))
    return made, made[task["index"]]


@functools.lru_cache(maxsize=16)
def _task(name: str, num_rows: int, seed: int, settings: str) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, size=num_rows, seed=seed, **json.loads(settings))
