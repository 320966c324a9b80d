"""A task of reasoning-gym and a seed -> prompts, and what verifies answers to them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framework.core.extras import missing_extra
from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.samples import Row
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class ReasoningGym:
    """Makes rows of `prompt` and `answer` by a procedure, as many as wanted.

    Read by `format: prompt_only`, judged by the reward of the same name: the column `task` says how
    the row is made again, with all that its verifier needs.
    """

    task: str = setting(not_empty=True)
    """Name of the task, such as `leg_counting` or `basic_arithmetic`."""
    num_rows: int = setting(500, at_least=1)
    """Rows that are made."""
    seed: int = setting(0, at_least=0)
    """Another number, other rows; held-out rows need another than those that are trained on."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The task's own settings, such as `{min_terms: 2, max_terms: 4}`."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, Any] | None:
        """`reasoning_gym:TASK`."""
        scheme, found, task = locator.partition(":")
        return {"task": task} if found and scheme == "reasoning_gym" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there; whether it has the task is seen when rows are made."""
        yield from missing_extra("reasoning_gym", "rewards", key=".type")

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(number from 1, row).

        Raises:
            UserError: there is no such task, or its settings are wrong.
        """
        made = self._made()
        for number in range(start, self.num_rows + 1):
            entry = made[number - 1]
            yield (
                number,
                {
                    "prompt": entry["question"],
                    "answer": entry["answer"],
                    "task": {
                        "name": self.task,
                        "num_rows": self.num_rows,
                        "seed": self.seed,
                        "settings": self.settings,
                        "index": number - 1,
                    },
                },
            )

    def place(self, number: int) -> tuple[str, int]:
        """(the task, row number)."""
        return f"reasoning_gym:{self.task}", number

    def fingerprint(self) -> str:
        """Hash of the task, its settings and the package's version."""
        version = importlib.metadata.version("reasoning-gym")
        parts = [self.task, self.num_rows, self.seed, self.settings, version]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def count_rows(self) -> int | None:
        """As many as wanted."""
        return self.num_rows

    def _made(self) -> Any:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

        if self.task not in DATASETS:
            what = f"reasoning-gym has no task {self.task!r}"
            raise UserError(Problem(what=what, hint=did_you_mean(self.task, DATASETS)))
        try:
            return reasoning_gym.create_dataset(
                self.task, size=self.num_rows, seed=self.seed, **self.settings
            )
        except (TypeError, ValueError, AssertionError) as error:
            what = f"reasoning-gym's {self.task} doesn't take {self.settings}: {error}"
            raise UserError(Problem(what=what, hint="write other `settings:`")) from error
