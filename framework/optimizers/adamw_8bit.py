"""AdamW of bitsandbytes with 8-bit states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.settings import setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class AdamW8bit:
    """AdamW with 8-bit states, a quarter of the memory (Dettmers et al., 2022); bitsandbytes."""

    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the running mean of gradients."""
    beta2: float = setting(0.999, at_least=0, below=1)
    """Decay of the running mean of squared gradients."""
    epsilon: float = setting(1e-8, above=0)
    """Added to the denominator."""
    paged: bool = False
    """States leave a full GPU for host memory; no difference on a CPU."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """bitsandbytes must be installed."""
        return missing_extra("bitsandbytes", "bitsandbytes", key="trainer.optimizer")

    def state_bytes(self, num_numbers: int) -> int:
        """See `protocols.StateSized`; small parameters keep float32 states."""
        from framework.update_rules.state_sizes import blockwise_bytes

        return blockwise_bytes(num_numbers, num_states=2, bits=8)

    def step_bytes(self, num_numbers: int) -> int:
        """See `protocols.StepSized`: bitsandbytes has no kernel for CPUs. It makes both states, the
        gradient, the root of one and its multiple in float32."""
        return 5 * 4 * num_numbers

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

        kind = PagedAdamW8bit if self.paged else AdamW8bit
        return kind(
            [dict(group) for group in groups],
            lr=learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
        )
