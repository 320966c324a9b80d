"""Lion of bitsandbytes."""

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


@dataclass(frozen=True, kw_only=True)
class Lion:
    """Lion: the sign of a momentum, half of Adam's memory (Chen et al., 2023); bitsandbytes."""

    beta1: float = setting(0.9, at_least=0, below=1)
    """Share of the momentum in the update's sign."""
    beta2: float = setting(0.99, at_least=0, below=1)
    """Decay of the momentum."""
    optim_bits: Literal[8, 32] = 32
    """Bits of each state."""
    paged: bool = False
    """States leave a full GPU for host memory; no difference on a CPU."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """bitsandbytes must be installed."""
        return missing_extra("bitsandbytes", "bitsandbytes", key="trainer.optimizer")

    def state_bytes(self, num_numbers: int) -> int:
        """See `protocols.StateSized`; small parameters keep a float32 state."""
        from framework.update_rules.state_sizes import blockwise_bytes

        return blockwise_bytes(num_numbers, num_states=1, bits=self.optim_bits)

    def build(self, groups: Sequence[Mapping[str, Any]], learning_rate: float) -> Optimizer:
        """See `protocols.OptimizerComponent`."""
        from bitsandbytes.optim.lion import Lion as BitsAndBytesLion

        return BitsAndBytesLion(
            [dict(group) for group in groups],
            lr=learning_rate,
            betas=(self.beta1, self.beta2),
            optim_bits=self.optim_bits,
            is_paged=self.paged,
        )
