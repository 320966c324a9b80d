"""AdamW of torchao with 8-bit or 4-bit states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


SMALLEST = 4096
"""Numbers of a parameter whose states have few bits."""


@dataclass(frozen=True, kw_only=True)
class AdamWTorchAO:
    """AdamW with states of 8 or 4 bits, a quarter or an eighth of the memory; torchao.

    Parameters of fewer than 4,096 numbers, or of a number that blocks don't divide, keep states of
    their own size.
    """

    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the running mean of gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of squared gradients."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""
    optim_bits: Literal[4, 8] = 8
    """Bits of each state."""
    stochastic_rounding: bool = False
    """Round updates of bfloat16 weights by chance, so that small ones aren't lost."""
    compile: bool = False
    """Compile the update: faster on a GPU; the first step takes long and needs a C++ compiler."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """torchao must be installed."""
        return missing_extra("torchao", "torchao", key="trainer.optimizer")

    def state_bytes(self, num_numbers: int) -> int:
        """See `protocols.StateSized`; a scale for 256 numbers of 8 bits, or 128 of 4."""
        block = 256 if self.optim_bits == 8 else 128
        if num_numbers < SMALLEST or num_numbers % block:
            return 2 * 4 * num_numbers
        return 2 * (num_numbers * self.optim_bits // 8 + num_numbers // block * 4)

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from torchao.optim import AdamW4bit, AdamW8bit

        kind = AdamW8bit if self.optim_bits == 8 else AdamW4bit
        optimizer = kind(
            [dict(group) for group in groups],
            lr=learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            bf16_stochastic_round=self.stochastic_rounding,
        )
        for group, given in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = given["lr"]
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        """torchao wants rates as tensors; schedules, JSON and reports want numbers."""
        import torch

        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
        if not self.compile:
            torch.compiler.set_stance("force_eager")

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        import torch

        for group in optimizer.param_groups:
            group["lr"] = group["lr"].item()
        if not self.compile:
            torch.compiler.set_stance("default")
