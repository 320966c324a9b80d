"""DeepSpeed's own configuration file, held against the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.problems import Problem, UserError

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

AUTO = "auto"
KEY = "strategy.config"

_BATCH = {
    "train_batch_size": "trainer.global_batch_size",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch_size",
    "gradient_clipping": "trainer.max_grad_norm",
}
"""Key of the file -> the recipe's for the same."""

_RECIPES_OWN = {
    "optimizer": "trainer.optimizer",
    "scheduler": "trainer.lr_scheduler_type",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
}
"""Sections that would decide what the recipe decides."""


@dataclass(frozen=True)
class DeepSpeedFile:
    """A configuration file; `auto`, or nothing, stands for what the recipe says."""

    path: str

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """What is written.

        Raises:
            UserError: it can't be read, or isn't a JSON object.
        """
        try:
            values = json.loads(Path(self.path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                Problem(
                    key=KEY,
                    what=f"{self.path!r} can't be read: {error}",
                    hint="write the path of a JSON file of DeepSpeed's",
                )
            ) from error
        if isinstance(values, dict):
            return values
        raise UserError(Problem(key=KEY, what=f"{self.path!r} is no JSON object"))

    @property
    def settled(self) -> dict[str, Any]:
        """What is written and not `auto`, without what the recipe decides."""
        values = _without_auto(self.values)
        ours = (*_BATCH, *_RECIPES_OWN, "gradient_accumulation_steps", "bf16")
        return {name: value for name, value in values.items() if name not in ours}

    @property
    def zero(self) -> Mapping[str, Any]:
        """Its `zero_optimization`."""
        return self.settled.get("zero_optimization", {})

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """Where it contradicts the recipe."""
        try:
            values = _without_auto(self.values)
        except UserError as error:
            yield from error.problems
            return
        if self.zero.get("stage") not in {1, 2, 3}:
            yield self._problem(
                "zero_optimization.stage",
                f"is {self.zero.get('stage')!r}",
                "write 1, 2 or 3 there; without ZeRO, write strategy: ddp",
            )
        if self.zero.get("offload_param", {}).get("device") == "nvme":
            yield self._problem(
                "zero_optimization.offload_param.device",
                "is nvme, from which DeepSpeed 0.19 reads float32 weights as bfloat16, and others "
                "into buffers that are in use",
                "write cpu there",
            )
        trainer = recipe.trainer
        asked = (trainer.global_batch_size, trainer.micro_batch_size, trainer.max_grad_norm or 0.0)
        for (name, key), value in zip(_BATCH.items(), asked, strict=True):
            if values.get(name, value) != value:
                yield self._contradiction(name, values[name], key, value)
        for name, key in _RECIPES_OWN.items():
            section = values.get(name)
            if isinstance(section, dict) and section.get("enabled", True) and section:
                yield self._problem(
                    name, f"is what the recipe's `{key}` decides", "remove the section"
                )
        in_bfloat16, dtype = _bfloat16(values), recipe.model.dtype
        decided = in_bfloat16 is not None and dtype != AUTO
        if decided and in_bfloat16 != (dtype == "bfloat16"):
            yield self._contradiction("bf16.enabled", in_bfloat16, "model.dtype", dtype)

    def run_problems(
        self, *, autocast_dtype: str | None, num_accumulation_steps: int | None
    ) -> Iterator[Problem]:
        """Where it contradicts what the recipe comes to on this machine."""
        values = _without_auto(self.values)
        in_bfloat16 = _bfloat16(values)
        if in_bfloat16 is not None and in_bfloat16 != (autocast_dtype == "bfloat16"):
            yield self._problem(
                "bf16.enabled",
                f"is {json.dumps(in_bfloat16)}, and this run computes in "
                f"{autocast_dtype or 'float32'}",
                'write "auto" there, or `model.dtype` in the recipe',
            )
        steps = values.get("gradient_accumulation_steps", num_accumulation_steps)
        if steps != num_accumulation_steps:
            yield self._problem(
                "gradient_accumulation_steps",
                f"is {steps}; global_batch_size, micro_batch_size and the number of processes "
                f"make it {num_accumulation_steps}"
                if num_accumulation_steps is not None
                else f"is {steps}; with micro_batch_size: auto it differs from step to step",
                'write "auto" there',
            )

    def _contradiction(self, name: str, value: Any, key: str, asked: Any) -> Problem:
        return self._problem(
            name,
            f"is {json.dumps(value)}, and the recipe's {key} is {json.dumps(asked)}",
            'write "auto" there',
        )

    def _problem(self, name: str, what: str, hint: str) -> Problem:
        return Problem(key=KEY, what=f"{name} in {self.path!r} {what}", hint=hint)


def _without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_auto(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value != AUTO
    }


def _bfloat16(values: Mapping[str, Any]) -> bool | None:
    """Whether the file wants it; None where it leaves that to the recipe."""
    for name in ("bf16", "bfloat16"):
        if isinstance(values.get(name), dict) and "enabled" in values[name]:
            return bool(values[name]["enabled"])
    return None
