"""The shipped recipes, and how each is run on a tiny model.

A recipe's header may say how: `# test: key=value` is an override for that, in which TINY stands for
the tiny model's folder and JUDGE for that of a tiny reward model; `# needs: GPU` says that this
machine has to refuse it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent.parent / "recipes"
SLOTS: Mapping[str, tuple[str, ...]] = {
    "trainers": ("trainer", "type"),
    "adapters": ("adapter",),
    "quantizers": ("model", "quantization"),
    "optimizers": ("trainer", "optimizer"),
    "schedules": ("trainer", "lr_scheduler_type"),
    "strategies": ("strategy",),
}
"""Kind of component -> where a recipe names it."""
DEFAULTS: Mapping[str, str] = {
    "trainers": "sft",
    "adapters": "full",
    "optimizers": "adamw",
    "schedules": "cosine",
    "strategies": "ddp",
}
"""What a recipe has that doesn't name it."""


@dataclass(frozen=True)
class ShippedRecipe:
    """One file of `recipes/`."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(FOLDER).with_suffix("").as_posix()

    @property
    def needs(self) -> str:
        """`GPU`, or nothing."""
        return "".join(self._said("needs"))

    def overrides(
        self,
        tiny_model: Path,
        output: Path,
        num_steps: int,
        parts: Sequence[ShippedRecipe] = (),
        judge: Path | None = None,
    ) -> list[str]:
        """What makes it a run of a few steps on the tiny model.

        Args:
            parts: recipes of which a part was put into this one.
            judge: what gives a reward, where the recipe needs it.
        """
        usual = {
            "model.source": str(tiny_model),
            "output.dir": str(output),
            "trainer.max_steps": str(num_steps),
            "trainer.num_train_epochs": "null",
            "evaluation.evaluators": "[]",
            "tracking.trackers": "[]",
        }
        lines = [line for one in (self, *parts) for line in one._said("test")]
        own = dict(line.split("=", 1) for line in lines)
        return [
            f"{key}={value.replace('TINY', str(tiny_model)).replace('JUDGE', str(judge))}"
            for key, value in {**usual, **own}.items()
        ]

    def written(self, *keys: str) -> object:
        """What stands under a key in this file or in those that it extends."""
        values = _values(self.path)
        found: object = values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None and "extends" in values:
            return ShippedRecipe((self.path.parent / values["extends"]).resolve()).written(*keys)
        return found

    def component(self, *keys: str) -> str | None:
        """The name of the component that fills a slot."""
        value = self.written(*keys)
        name = value.get("type") if isinstance(value, dict) else value
        return name if isinstance(name, str) else None

    def _said(self, what: str) -> list[str]:
        text = self.path.read_text(encoding="utf-8")
        return re.findall(rf"^# {what}: (.+)$", text, re.MULTILINE)


@functools.cache
def _values(path: Path) -> Mapping[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def shipped_recipes() -> list[ShippedRecipe]:
    """All of them."""
    return [ShippedRecipe(path) for path in sorted(FOLDER.glob("**/*.yaml"))]
